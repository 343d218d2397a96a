//go:build tools

// Package tools pins helm for the development cluster.
// The blank import makes `go mod tidy` keep the modules that it needs.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
