// Package snapshot deals in backup files: it saves them, says what is in them, verifies them, and makes new data
// directories out of them.
//
// A snapshot file is the database followed by the SHA-256 of it. A database is made of pages, so its size is a
// multiple of 512; that of a snapshot is 32 more, which is how the trailer is recognized. A file copied out of a data
// directory has no trailer.
//
//	database, n*512 bytes | SHA-256, 32 bytes
//
// Say /backup/monday.db was saved at revision 1200 from a cluster that last compacted at 900. After somebody deleted
// the wrong prefix in revision 1100, this makes a one-member cluster as it was just before:
//
//	plan, err := snapshot.Plan(ctx, snapshot.RestoreOptions{
//		SnapshotPath: "/backup/monday.db", DataDir: "/var/lib/m1", Name: "m1",
//		InitialCluster: "m1=http://10.0.0.1:2380", InitialAdvertisePeerURLs: []string{"http://10.0.0.1:2380"},
//		ToRevision: 1099,
//	})
//	result, err := plan.Run(ctx)
//
// Plan checks everything that can be known beforehand and touches nothing: 850 would be refused with "this snapshot
// holds revisions 900 to 1200". Run builds the member in /var/lib/m1/restore.part and renames it to /var/lib/m1/member
// as its last step. Whatever happens in between, the directory is either not restored or restored whole, and running
// it again starts over.
//
// Files and restored directories are etcd's: what etcdctl saves is restored here, and what is saved or restored here,
// etcd and etcdutl can use.
package snapshot
