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
//	defrag       puts and gets at a fixed rate while a store of --size is defragmented,
//	snapshot     saved to a client,
//	compaction   or relieved of --revisions old revisions
//
// In the last three, a request is timed from when it was due, not from when it
// was sent, so a stall counts for everything that it held up.
package main
