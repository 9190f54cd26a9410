// Package flux names the kinds of Flux whose definitions are generated for the examples' test.
package flux

import (
	_ "github.com/fluxcd/kustomize-controller/api/v1"
	_ "github.com/fluxcd/source-controller/api/v1"
)
