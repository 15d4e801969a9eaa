// Package snapfile writes and reads the small .snap files that stand beside the database.
//
// A .snap file records that the state machine reached a point of the log, and who the members were there. The data
// itself is in the database, whose own applied index rules at boot; the file is kept because etcd up to 3.6 looks for
// it when it starts in a data directory, and because its name says to a person what the directory holds.
//
// For index 5 reached in term 2 the file is 0000000000000002-0000000000000005.snap, with this content:
//
//	snappb.Snapshot
//	  crc   CRC-32C of data
//	  data  raftpb.Snapshot
//	    metadata  conf state, index 5, term 2
//	    data      JSON of etcd's v2 store, of which only the members are still used:
//	              /0/members/<id in hex>/raftAttributes  {"peerURLs":["http://a:2380"]}
//	              /0/members/<id in hex>/attributes      {"name":"a","clientURLs":["http://a:2379"]}
//	              /0/removed_members/<id in hex>
//	              /0/version                             3.7.0
//
// A file is written under a temporary name, synced and renamed, so one that has its name is whole.
package snapfile
