// Package rpc speaks the etcd v3 API on the wire: it decodes, checks, asks the rest of the server and stamps the answer.
//
// # A worked example
//
// A client puts a key. Its message arrives as /etcdserverpb.KV/Put; the same service is registered as
// upkeep.etcdserverpb.KV, which is what our generated code calls itself (names.go). What happens then, in this order:
//
//	codec.go         copies the bytes once, out of gRPC's buffers; key and value of the request point into that copy
//	interceptors.go  tells the observer; refuses on a learner; looks at the client's version and at require-leader
//	kv.go            Admission: is there room for it?        ErrNoSpace  -> ResourceExhausted
//	check.go         is the request well-formed?             ErrEmptyKey -> InvalidArgument
//	kv.go            Proposer: through the log, applied      -> *pb.PutResponse with the revision of the put
//	kv.go            Headers: cluster, member and term join that revision
//	interceptors.go  an error is looked up in the one table (errors.go) and becomes a gRPC status
//	codec.go         the answer is written into a pooled buffer, which gRPC gives back once it is sent
//
// The order matters to clients: a request that is wrong in two ways is refused for the first one, as etcd does it.
//
// # What the package does not do
//
// It keeps no state beyond open streams and has no opinion on storage: everything it needs is declared in api.go as small
// interfaces, which the server implements and the tests fake. Errors come from all over the program and get their code and
// text here and nowhere else. Clients match on the text, so texts are etcd's to the letter.
//
// # Who may call
//
// A new service embeds service, and asks before it does anything: requireRoot(ctx) for what is the operator's,
// requireUser(ctx) for what everybody may do who presents a token or a certificate, access(ctx) for keys (its methods read,
// write, and fresh, once the answer is made). What it proposes through Proposer carries the caller's name by itself, and is
// checked by apply. While authentication is off all of them let everybody pass.
//
// # Locks and elections
//
// Lock, Campaign and their like (lock.go, election.go) are no requests of their own: they are made of puts, deletions and
// watches on keys that line up under a name (queue.go), as etcd's client library makes them.
//
// # Streams
//
// A handler has to be able to return while its client is silent, because a stream that requires a leader is cut when there
// is none. gRPC's Recv cannot be interrupted, so a goroutine of its own reads and ends with the stream (stream.go,
// watch.go). All answers to watch requests travel through the watchers' queue (package watch), so that "created" comes
// before events and progress after them; only refusals, which have no watcher, are put in their place here.
package rpc
