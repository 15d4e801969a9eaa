// Package schedule is the replicated schedule of maintenance: which task is open, which runs were asked for, what the
// policy is, how everything ended, and the events that tell of it.
//
// Commands reach it through the log, so every member holds the same schedule, and a member that leads from now on goes on
// where the last leader stopped. One rule makes maintenance safe: at most one task is open. So for a defragmentation of
// member 2 the log holds
//
//	begin    {member 2, kind DEFRAG, reason "free 612 MiB …"}   refused while any other task is open
//	progress {task 7, incarnation 0x51…, "copying", 120/400}    member 2 has seen it and works; a sign of life
//	finish   {task 7, outcome {DONE, 1.0 GiB → 400 MiB}}        the next task may begin
//
// and each of the three leaves an event or a figure that operators see on any member.
//
// It reads no clock: all times are those of the commands. A refusal ([ErrBusy], [ErrPaused], [ErrStale], [ErrNotOpen]) is a
// result, the same on every member.
//
// In the bucket `upkeep` of the database it keeps two kinds of keys, which etcd does not know and which the hashes that
// members compare leave out:
//
//	maintenance/state                       schedulepb.State
//	maintenance/event/ + 8 bytes sequence   schedulepb.Event, the newest 1000
package schedule
