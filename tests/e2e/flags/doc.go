// Package flags tests what the options of the command line do, with real processes of Upkeep and, beside them, of etcd.
package flags
