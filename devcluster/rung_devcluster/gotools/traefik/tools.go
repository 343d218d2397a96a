//go:build tools

// Package tools pins Traefik for the tests of the Gateway API.
// The blank import makes `go mod tidy` keep the modules that it needs.
package tools

import _ "github.com/traefik/traefik/v3/cmd/traefik"
