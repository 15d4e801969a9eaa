// Package backups takes backups of a live cluster by itself.
//
// What a backup is, and how one is restored, is the business of snapshot/backup. Here is when one is taken, of which
// member, and how a member that serves requests is read.
//
// Say the policy is a full backup a day and an incremental one every five minutes, into s3://backups/prod. On the leader
// the Planner looks at the last outcomes, which are replicated, and proposes
//
//	12:00  full         of m2: the last full backup is 24h0m0s old; m2 is a follower and level with the leader
//	12:05  incremental  of m2: the last backup is 5m0s old
//
// one at a time with all other maintenance. The member that is named runs the Worker: it reads itself by way of a Source,
// uploads, restores what it has uploaded into a scratch directory, compares hashes, and removes what retention no longer
// wants. A full backup is taken where an incremental one was due and cannot be had, because the history in between has been
// compacted; its outcome says so.
package backups
