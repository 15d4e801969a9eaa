// Bench measures one server against another, side by side on one machine, with
// the same client and the same requests.
//
//	go run ./tests/bench --upkeep bin/upkeep --etcd bin/peer/etcd --rows put,get --rounds 5
//
// Each is a command line that takes etcd's flags. Rounds alternate which of the
// two goes first, so that neither always has the warm disk; the table shows the
// median of the rounds and the ratio. A row is one of
//
//	put          closed loop, 256 B values, for each of --clients and --members
//	get          linearizable and serializable reads of one key, likewise
//	restart      memory and time to the first read with --keys keys
//	hash         puts, gets and watches at a fixed rate while HashKV of a store of --size is asked for,
//	snapshot     it is saved to a client,
//	backup       it is backed up and the backup restored to verify it,
//	compaction   it is relieved of --revisions old revisions,
//	defrag       it is defragmented,
//	cycle        three members are defragmented in turn, leadership moved before the leader's
//	defrag-large defrag with a store of --large-size; only if asked for
//
// In the last seven, a request is timed from when it was due, not from when it
// was sent, so a stall counts for everything that it held up. A second table
// compares each with the same load without maintenance, and with the targets.
package main
