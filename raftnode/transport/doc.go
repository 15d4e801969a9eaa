// Package transport carries raft messages and database images between members over gRPC.
//
//	t, _ := transport.New(transport.Config{ID: 1, ClusterID: c, FS: fs, SnapDir: dir})
//	server := t.NewServer()                    // serves peerpb.Peer; run it on the peer listener
//	t.AddPeer(2, []string{"http://10.0.0.2:2380"})
//	node, _ := raftnode.Start(raftnode.Config{Transport: t, ...})
//	t.Attach(node, forwarder)                  // from here on what arrives is delivered
//
// A leader that has just appended three entries calls Send with one MsgApp and one MsgHeartbeat for member 2. The
// MsgApp joins the peer's bulk lane, the heartbeat its control lane. Each lane is a bounded queue, a goroutine and a
// gRPC stream: the goroutine takes all that is queued and sends it as one batch. Both streams share a connection,
// on which HTTP/2 interleaves them frame by frame, so a heartbeat never waits for a megabyte of entries in front of
// it, and a slow disk at the receiver holds back the bulk lane only.
//
// A lane that is full or not connected drops what it is given and reports the peer unreachable: raft probes and
// sends again what is needed, while a queue of old messages would only arrive late. Every stream begins with a hello
// naming cluster, sender and receiver. A receiver that is not meant refuses with FailedPrecondition, which the sender
// logs once.
//
// A member that lags behind the log gets the whole database as a stream of chunks on a connection of its own, paced.
// The receiver appends them to <index>.snap.db.part and, when the checksum agrees, renames it to <index>.snap.db and
// hands it to the node. When the stream breaks, the sender asks how far the receiver came and goes on from there.
package transport
