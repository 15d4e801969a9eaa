package command

import (
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/snapshot"
)

func newSnapshotRestore(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore <filename> --data-dir {output dir} [options]",
		Short: "Makes the data directory of a new member from a snapshot",
	}
	restore := newRestoreFlags(cmd)
	skipHashCheck := cmd.Flags().Bool("skip-hash-check", false,
		"do not check the hash at the end (needed for a file copied from a data directory)")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if len(args) != 1 {
			return badArgs("snapshot restore requires exactly one argument")
		}
		o, err := restore.options(a)
		if err != nil {
			return err
		}
		path, remove, err := snapshot.Unpack(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		defer func() { err = plainJoin(err, remove()) }()
		o.SnapshotPath, o.SkipHashCheck = path, *skipHashCheck
		plan, err := snapshot.Plan(cmd.Context(), o)
		if err != nil {
			return err
		}
		shown := a.startProgress("restoring into "+o.DataDir, false)
		defer shown.end()
		result, err := plan.Run(cmd.Context())
		if err != nil {
			return err
		}
		if result.LostLeases > 0 {
			o.Logger.Warn("some keys were attached to leases that are not in the snapshot: they will not expire",
				zap.Int("keys", result.LostLeases))
		}
		return nil
	}
	return cmd
}

// restoreFlags are those of every restore into a data directory.
type restoreFlags struct {
	given     snapshot.RestoreOptions
	peerURLs  string
	mmapBytes uint64
}

func newRestoreFlags(cmd *cobra.Command) *restoreFlags {
	r := &restoreFlags{}
	f, o := cmd.Flags(), &r.given
	f.StringVar(&o.DataDir, "data-dir", "", "data directory to make (default: <name>.etcd)")
	f.StringVar(&o.WALDir, "wal-dir", "", "directory of the log, if not inside the data directory")
	f.StringVar(&o.Name, "name", "default", "name of the member")
	f.StringVar(&o.InitialCluster, "initial-cluster", "default=http://localhost:2380", "members of the new cluster")
	f.StringVar(&o.InitialClusterToken, "initial-cluster-token", "etcd-cluster", "token that the IDs are made of")
	f.StringVar(&r.peerURLs, "initial-advertise-peer-urls", "http://localhost:2380", "peer URLs of this member")
	f.Uint64Var(&o.BumpRevision, "bump-revision", 0, "how much to raise the newest revision by")
	f.BoolVar(&o.MarkCompacted, "mark-compacted", false,
		"mark everything before the raised revision as compacted (required with --bump-revision, only allowed with it)")
	f.Int64Var(&o.ToRevision, "to-revision", 0, "restore the keys as they were at this revision (default: the newest)")
	f.Uint64Var(&r.mmapBytes, "initial-memory-map-size", 10<<30, "bytes to map the database with while restoring")
	return r
}

func (r *restoreFlags) options(a *app) (snapshot.RestoreOptions, error) {
	o := r.given
	if (o.BumpRevision > 0) != o.MarkCompacted {
		return o, fail(exitBadArgs, snapshot.ErrMarkCompacted)
	}
	if o.DataDir == "" {
		o.DataDir = o.Name + ".etcd"
	}
	o.InitialAdvertisePeerURLs = strings.Split(r.peerURLs, ",")
	o.InitialMmapBytes = int64(r.mmapBytes)
	o.Logger = a.logger()
	return o, nil
}
