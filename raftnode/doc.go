// Package raftnode replicates a state machine: it runs raft over the write-ahead
// log, a transport and the state machine, each seen as a small interface.
//
// # A worked example: one put
//
// A call on member A, a follower, of a cluster of three led by B:
//
//		result, err := node.Propose(ctx, &pb.InternalRaftRequest{Put: put})
//
//	 1. Propose, on the caller's goroutine, gives the request an ID, encodes it,
//	    notes in waiters who waits for that ID, and queues the bytes.
//	 2. The loop, which alone touches raft, takes what is queued. If several
//	    requests wait they become one entry, each still under its own ID. Raft turns
//	    it into a message to B.
//	 3. B's loop appends the entry. Raft's Ready holds a message to B's append
//	    goroutine and messages to A and C: the disk and the network work at once.
//	 4. B's append goroutine writes everything queued and syncs once. A and C do the
//	    same and answer from there.
//	 5. With two of three answers the entry is committed. Raft's Ready holds a
//	    message to the apply goroutine, which decodes the entry and calls the state
//	    machine. On A it finds the ID among the waiters and hands over the result.
//
// Nobody waits for anything but a channel, no goroutine for another that waits for
// it: the loop waits for none, apply waits for the loop (to switch configurations),
// append waits for apply (to restore a snapshot).
//
// # Reads
//
// LinearizableRead joins the round that is gathering. When the round before has its
// answer, the loop asks raft for a read index, which the leader confirms with a
// quorum; as soon as that index is applied here, all who joined go on.
//
// # What bounds the log
//
// The state machine applies ahead of what it has on disk. Only what Durable covers
// may leave the log: in memory CatchUpEntries stay behind it for slow members, in
// the WAL a snapshot record is written every SnapshotEntries and the segments before
// it are removed. A member that needs more gets the whole state: Snapshot pins it,
// the transport streams it, InstallSnapshot puts it in place.
package raftnode
