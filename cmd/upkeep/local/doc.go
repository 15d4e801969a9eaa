// Package local runs a whole cluster on this machine, each member a process of its own, for trying things out and for
// breaking them on purpose:
//
//	$ upkeep local
//	m1 │ 10:04:05.123 ready to serve client requests
//	...
//	upkeep> kill 2
//	m2 was killed. Type 2 to start it again.
//	upkeep> 2
//
// The members are this same program, started again with the flags of one member each. All state lives in the one
// goroutine of cluster.run; everything else (the members' output, their exits, the probes that find out when they are
// ready, what is typed) only sends it events.
package local
