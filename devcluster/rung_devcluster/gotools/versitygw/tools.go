//go:build tools

// Package tools pins versitygw for the development cluster.
// The blank import makes `go mod tidy` keep the modules that it needs.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
