// Upkeep is the server: one member of a replicated key-value store that speaks etcd's API.
//
//	upkeep                              a cluster of one on ports 2379 and 2380, data in default.etcd
//	upkeep --name m1 --data-dir /data   flags, environment and config file are etcd's, see package server/config
//	upkeep local                        a whole cluster on this machine, see package cmd/upkeep/local
//
// Exit codes: 0 for --help and --version, 2 for a command line that cannot be read, 1 for anything else that keeps the
// member from serving. SIGTERM and SIGINT stop it gracefully, after which it ends by that same signal, so that whoever
// started it sees why it ended.
package main
