// Package tracing sends a span of every traced call to a collector, by OpenTelemetry's protocol over gRPC.
//
// A member with
//
//	--enable-distributed-tracing --distributed-tracing-address=collector:4317 --distributed-tracing-sampling-rate=1000
//
// gets a put from a client that does not trace. One of a thousand such calls is sampled: its span, named
// etcdserverpb.KV/Put, has start, duration and status code, and leaves with others in a batch, some seconds later. A put
// from a client that traces carries the metadata `traceparent`; whether it is sampled was decided there, and its span
// becomes a child of the client's.
//
// Spans wait in a bounded queue. A collector that is slow or gone costs spans, and a line in the log, and never delays a
// call. Without the flag nothing of this is in the way: the gRPC server gets no handler at all.
package tracing
