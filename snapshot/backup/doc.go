// Package backup keeps backups of a cluster in a directory or in a bucket of an S3-compatible store, and restores any
// moment that they hold.
//
// A full backup is a snapshot file, as `snapshot save` writes it. An incremental one is the history since the one before
// it. Say a repository has been written to like this:
//
//	12:00  full         up to revision 1200
//	12:05  incremental  1201 to 1350
//	12:10  incremental  1351 to 1352
//
// and in revision 1351, at 12:07, somebody deleted the wrong prefix. Then
//
//	r, err := backup.Open("s3://backups/prod?endpoint=https://s3.example.com&region=eu-1")
//	plan, err := r.PlanRestore(ctx, backup.Target{At: time.Date(2026, 11, 20, 12, 6, 0, 0, time.UTC)})
//	// plan.Revision 1350, plan.Chain [12:00 full, 12:05 incremental, 12:10 incremental]
//	result, err := plan.Run(ctx, snapshot.RestoreOptions{DataDir: "/var/lib/m1", Name: "m1"})
//
// makes a data directory of a one-member cluster as of revision 1350. Each manifest says which revision was current when,
// about every second; 12:06 lies in the span of the second incremental backup, so that is fetched, too, and what is
// in it behind 1350 is dropped.
//
// # What a restore gives
//
// Keys and their history exactly as they were: the entries of bucket `key` are carried bit for bit, so HashKV at the
// revision is the one that the cluster had, and plan.Run compares it with what the member said when the backup was taken.
// Users, roles, leases and alarms have no history; they are those at the end of the backup in whose span the revision
// lies. A lease that was gone by then, but that a key was attached to at the revision, is taken from the newest backup
// before; one that came and went between two backups is lost, its keys stay, and the result counts them.
//
// # What can be relied on
//
// A backup is listed once all of it is durable, and verified if that was asked for: see manifest.go. Whatever is damaged
// later is noticed by a checksum and named. An incremental backup is made only if the member still has what the one
// before ended with; after a restore of the cluster, or when compaction was faster, a full one is made in its place.
package backup
