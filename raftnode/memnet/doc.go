// Package memnet is a network in memory, for running a whole cluster in one process and for breaking it on purpose.
//
// Hosts have names, and an address is "host:port". A listener and a connection behave as TCP's do, so gRPC and HTTP
// run on top unchanged, deadlines included:
//
//	network := memnet.New(1)
//	listener, _ := network.Listen("a:2380")
//	go server.Serve(listener)
//	conn, _ := network.Host("b").Dial(ctx, "a:2380")
//	network.Partition("a", "b") // bytes written from here on are held back, as TCP would retransmit them
//	network.Heal("a", "b")      // ... and are delivered now, in order
//
// A byte stream never loses bytes out of its middle, so a fault delays, holds or resets; losing single messages is
// what the layer above does when its queue is full or its stream was reset.
//
// There are no goroutines and no clock of its own: waiting is on condition variables and time.AfterFunc, so the
// network runs inside a testing/synctest bubble, where a partition of ten minutes takes no time at all.
package memnet
