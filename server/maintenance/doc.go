// Package maintenance decides when the store looks after itself, and sees to it that one member at a time does.
//
// It holds policy and coordination only: what it decides goes through the log (package schedule) and is carried out by mvcc
// and backend. There are three parts.
//
// The [Coordinator] runs on every member and decides on the leader. Whenever something has happened, and every half minute,
// it asks all members for their figures and the planners for what they want:
//
//	figures   m1 leader 1.0 GiB, 400 MiB in use    m2 follower 1.0 GiB, 450 MiB in use    m3 does not answer
//	plan      defrag m2: 574 MiB of 1024 MiB are free …    not now: m3 does not answer
//	          defrag m1: 624 MiB of 1024 MiB are free …    not now: m3 does not answer
//
// The reason is noted in the schedule, where every operator can read it. Once m3 is back, the first step that nothing holds
// up begins: a command in the log, which is refused if any task is open. So at most one member is under maintenance,
// whichever member leads, and even if two think that they do.
//
// The [Agent] of member m2 sees that the open task is its own, reports, and runs the [Worker] of its kind:
//
//	0 s  begin {task 7: defrag of m2}                 by the leader
//	0 s  progress {task 7, incarnation 0x51…}         by m2: from here on the task belongs to this process
//	5 s  progress {task 7, copying 40 %}              a sign of life every 5 s
//	9 s  finish {task 7, DONE, 1.0 GiB → 450 MiB}
//
// Reports work as a lease. If none was applied for 20 s, m2 stops by itself; only after 60 s without one does the leader
// close the task. So two members are never at work, even if one of them is cut off and nobody knows what it does. A member
// that finds a task of its own after a restart sees that the incarnation is another, and closes it as interrupted.
//
// The planners ([DefragPlanner], [RecoverPlanner], and others that the server registers) are pure functions from figures,
// policy and past outcomes to steps with reasons. They keep nothing, so a new leader goes on where the last one stopped, and
// they are tested as scripts. Conditions and times are read by the packages rule and window below this one.
//
// # Retention
//
// The [Compactor] is a policy of its own, which needs no turn. With --auto-compaction-mode=periodic and a retention of one
// hour, the leader notes every six minutes which revision is current, as a replicated sample:
//
//	12:00 revision 100    12:06 revision 180    …    13:00 revision 950
//
// and at 13:00 proposes a compaction at revision 100, the newest one that is at least an hour old. So between 60 and
// 66 minutes of history are kept. Since the samples live in the store, a new leader or a restarted member goes on
// where the last one stopped.
package maintenance
