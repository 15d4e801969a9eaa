// Package httpapi serves what a member says over plain HTTP: is it alive, is it healthy, which version, which metrics.
// It has etcd's paths, bodies and status codes.
//
// A client port speaks gRPC and HTTP at once, told apart by the first bytes of each connection:
//
//	grpcListener, httpListener := httpapi.Split(listener)
//	go grpcServer.Serve(grpcListener)
//	go http.Serve(httpListener, httpapi.ClientHandler(httpapi.Config{State: member, Metrics: m.Handler()}))
//
//	$ curl localhost:2379/health
//	{"health":"true","reason":""}
//	$ curl 'localhost:2379/readyz?verbose'
//	[+]data_corruption ok
//	[+]serializable_read ok
//	[+]linearizable_read ok
//	[+]non_learner ok
//	ok
//
// Where TLS is terminated in front of Split (server/tlsconfig), HTTP/2 may be a browser's or a proxy's, and the first
// request decides; Secure prepares the http.Server for such connections.
//
// What the answers are made of comes through the interface State, so that this package needs no server.
package httpapi
