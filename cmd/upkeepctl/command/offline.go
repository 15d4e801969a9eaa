package command

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
	"github.com/upkeep-kv/upkeep/snapshot"
)

const defaultLockTimeout = 10 * time.Second

// fileExists keeps a mistyped name from becoming a new, empty database.
func fileExists(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", path)
	}
	return err
}

func newHashKV(a *app) *cobra.Command {
	var options snapshot.FileOptions
	var revision int64
	cmd := &cobra.Command{
		Use:   "hashkv <filename>",
		Args:  cobra.ExactArgs(1),
		Short: "Shows the hash of the key history in a file",
		Long: `Shows the hash of the key history in a snapshot or database file, equal to what
'endpoint hashkv' shows of a server with that history. The file is only read.`,
	}
	lockTimeout(cmd, &options)
	cmd.Flags().Int64Var(&revision, "rev", 0, "largest revision to hash (default: the newest)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		out, err := a.settings(cmd)
		if err != nil {
			return err
		}
		if err := fileExists(args[0]); err != nil {
			return err
		}
		hash, err := snapshot.HashKV(cmd.Context(), args[0], revision, options)
		if err != nil {
			return err
		}
		return out.Print(printer.FileHash{
			Hash: hash.Hash, HashRevision: hash.HashRevision, CompactRevision: hash.CompactRevision,
		})
	}
	return cmd
}

func newCheck(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check <filename>",
		Args:  cobra.ExactArgs(1),
		Short: "Checks a database file for damage",
		Long: `Checks the pages of a database file and the records in it, and lists what is
wrong, a line each. The file is only read. The commands below check a cluster
that runs: how fast it is, and how much memory it needs.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := fileExists(args[0]); err != nil {
				return err
			}
			problems, err := backend.Check(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for _, problem := range problems {
				fmt.Fprintln(a.out, problem)
			}
			if len(problems) > 0 {
				return fail(exitError, errors.New(args[0]+" is damaged"))
			}
			fmt.Fprintf(a.out, "%s is sound\n", args[0])
			return nil
		},
	}
	cmd.AddCommand(newCheckPerf(a), newCheckDatascale(a))
	return cmd
}
