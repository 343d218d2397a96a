//go:build tools

// Package tools pins coredns for the development cluster.
// The blank import makes `go mod tidy` keep the modules that it needs.
package tools

import _ "github.com/coredns/coredns"
