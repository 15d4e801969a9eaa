// Package maintenance decides when the store looks after itself.
//
// It holds policy only: what it decides is proposed through the log and carried out by mvcc and backend. The first
// policy is retention. With --auto-compaction-mode=periodic and a retention of one hour, the leader notes every six
// minutes which revision is current, as a replicated sample:
//
//	12:00 revision 100    12:06 revision 180    …    13:00 revision 950
//
// and at 13:00 proposes a compaction at revision 100, the newest one that is at least an hour old. So between 60 and
// 66 minutes of history are kept. Since the samples live in the store, a new leader or a restarted member goes on
// where the last one stopped.
package maintenance
