// Package gateway sends the same HTTP requests to Upkeep and to etcd, both as real processes, and compares what comes
// back: status, headers and JSON, identities and sizes masked. And it runs the examples of docs/http.md.
package gateway
