// Package quota keeps the database from outgrowing its disk.
//
// Two things work together. Admission is local: the member that receives a request compares what the request costs
// with what is left of --quota-backend-bytes, before the request enters the log. Refusal is replicated: once any member
// finds itself over its quota it proposes a NOSPACE alarm, and from the log index at which the alarm is applied every
// member refuses to grow the store, until an operator disarms it. The apply path therefore never looks at a file size;
// it reads only [Alarms], which is part of the replicated state.
//
// For example, a member with a quota of 16 MiB and 15.9 MiB in its file receives a put of 1 MiB:
//
//	limit := quota.Limit{MaxBytes: 16 << 20, Size: backend.QuotaBytes}
//	err := limit.Admit(request)      // quota.ErrNoSpace, since 15.9 MiB + Cost(request) ≥ 16 MiB
//	propose(AlarmRequest{ACTIVATE, memberID, NOSPACE})
//
// and from then on alarms.Check(request) refuses puts on every member, while ranges, deletes, compaction,
// defragmentation and lease revocation go on, since those are the way out.
package quota
