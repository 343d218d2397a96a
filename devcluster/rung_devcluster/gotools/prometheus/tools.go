//go:build tools

// Package tools pins prometheus for the development cluster.
// The blank import makes `go mod tidy` keep the modules that it needs.
package tools

import _ "github.com/prometheus/prometheus/cmd/prometheus"
