// Package gateway serves the whole API as JSON over HTTP, with etcd's paths, names, errors and status codes.
//
// A request is decoded, handed to the member's own gRPC server and its answer encoded: so every rule that holds for gRPC
// clients (who may do what, what a learner serves, how large a request may be) holds here without being written twice.
// The way there is a connection in memory, so that it needs no port, no certificate and no address:
//
//	loopback := bufconn.Listen(64 << 10)
//	go grpcServer.Serve(loopback)
//	g := gateway.New(gateway.Config{Dial: loopback.DialContext, MaxMessageBytes: 2 << 20})
//	defer g.Close()
//	go http.Serve(listener, g)
//
//	$ curl localhost:2379/v3/kv/put -d '{"key": "Zm9v", "value": "YmFy"}'
//	{"header":{"cluster_id":"14841639068965178418","member_id":"10276657743932975437","revision":"2","raft_term":"2"}}
//
// Nothing is built and no connection made before the first request.
//
// The handlers are generated from proto/gateway.yaml; register.go lists them, and a new service is one line there. By
// hand are written: the paths of ours that are not one call (operations.go), how much a client may send and how long
// it may take (body.go), and the same for websockets (websocket.go).
package gateway
