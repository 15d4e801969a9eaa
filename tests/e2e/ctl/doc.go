// Package ctl compares upkeepctl with the real etcdctl and etcdutl.
//
// Commands that change something run as one script against a fresh server,
// once per tool: the servers have the same addresses and so the same IDs, and
// every line of output must be equal.
//
//	{args: `put a 1 --prev-kv`},          // both print OK, then the pair before
//	{args: `get a -w table`},             // both fail with exit code 4
//
// Commands that only read run with both tools, one after the other, against
// one server. What differs by nature (durations, log lines, lease IDs, the
// name of the program) is masked; mask.go says how.
package ctl
