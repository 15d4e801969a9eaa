// Package config is everything a server can be told, and where it is told from.
//
// A value comes from one of three places, never from two:
//
//	upkeep --name m1 --quota-backend-bytes=16777216           flags
//	ETCD_NAME=m1 upkeep --quota-backend-bytes=16777216        and environment; both for one setting is an error
//	upkeep --config-file m1.yaml                              a file, and then flags and environment are ignored
//
// The options are etcd's by name, default and unit; the ones that are our own have UPKEEP_ in the environment instead
// of ETCD_. In a program, for example in a test, start from the defaults:
//
//	cfg := config.Default()
//	cfg.Name, cfg.DataDir = "m1", dir
//	cfg.Complete()              // derives what was left open: here --initial-cluster
//	err := cfg.Validate()       // says what is wrong, naming the flag
//
// An option is only accepted if it does something. One that etcd has and that can mean nothing here is accepted with a
// warning (Config.Warnings) so that existing command lines keep working; one that is not available yet is unknown.
package config
