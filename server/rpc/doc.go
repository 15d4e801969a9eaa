// Package rpc speaks the etcd v3 API on the wire: it decodes, checks, asks the rest of the server and stamps the answer.
package rpc
