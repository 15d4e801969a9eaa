// Package command holds upkeepctl's commands, one group per file.
//
// A command is a constructor that takes the app (streams and global flags)
// and returns a cobra command whose RunE does the work:
//
//	cmd := &cobra.Command{Use: "compaction <revision>", RunE: func(cmd *cobra.Command, args []string) error {
//		if len(args) != 1 {
//			return badArgs("compaction command needs 1 argument") // exit 128
//		}
//		client, out, err := a.connect(cmd)   // flags + environment -> client and output writer
//		...
//		return out.Print(resp)               // simple, json, fields, table or protobuf
//	}}
//
// Errors carry the exit code of the process (exit.go); Run prints them once.
// Nothing in the package is global, so tests may run several at once.
package command
