// Package printer writes responses in etcdctl's output formats.
//
//	out, err := printer.New("table", false, os.Stdout)
//	err = out.Print(printer.Statuses{{Endpoint: "127.0.0.1:2379", Status: resp}})
//
// A response is the etcd client's own type where there is one, and a type of
// this package (types.go) where a command combines several. Each format is one
// file with one switch over those types; a type it has no form for is
// ErrUnsupported, which ends the process with exit code 4.
package printer
