//go:build tools

// Package tools pins etcd for the development cluster.
// The blank import makes `go mod tidy` keep the modules that it needs.
package tools

import _ "go.etcd.io/etcd/server/v3"
