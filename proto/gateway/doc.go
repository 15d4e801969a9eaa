// Package gateway holds what `make proto` generates for JSON over HTTP: a package of handlers for each package of
// messages, and the OpenAPI description of all of them.
//
// Which path belongs to which call stands in proto/gateway.yaml, what the description says beyond that in
// proto/openapi.yaml. server/gateway serves both.
package gateway

import _ "embed"

//go:embed openapi.swagger.json
var openAPI string

// OpenAPI is the description of every path of the gateway, as OpenAPI 2.0 in JSON.
func OpenAPI() string { return openAPI }
