package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
	"github.com/upkeep-kv/upkeep/snapshot/backup"
)

func newBackup(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Takes backups, and lists, verifies and removes those in a repository",
		Long: `Takes backups, and lists, verifies and removes those in a repository: a directory or a
bucket: /var/backups/upkeep, or s3://bucket/prefix?endpoint=https://host:port&region=NAME&path-style=true&ca=FILE.
Credentials of a bucket come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or from ~/.aws/credentials.`,
		Example: fmt.Sprintf(`  # What is there?
  %[1]s backup list --repository /var/backups/upkeep -w table

  # Restore the newest one to a scratch directory, and compare hashes
  %[1]s backup verify --repository /var/backups/upkeep

  # What would go if ten full backups were kept?
  %[1]s backup prune --repository /var/backups/upkeep --keep-count 10 --dry-run`, programName),
	}
	cmd.AddCommand(newBackupList(a), newBackupRun(a), newBackupVerify(a), newBackupPrune(a))
	return cmd
}

// repositoryFlag adds the flag that names a repository.
func repositoryFlag(cmd *cobra.Command, name string) func() (*backup.Repository, error) {
	location := cmd.Flags().String(name, "", "repository: a directory or s3://bucket/prefix?endpoint=URL (required)")
	return func() (*backup.Repository, error) {
		if *location == "" {
			return nil, badArgs("--%s is required: a directory or s3://bucket/prefix?endpoint=URL", name)
		}
		return openRepository(*location)
	}
}

// openRepository refuses a directory that is not there, which is nearly always a typing error.
func openRepository(location string) (*backup.Repository, error) {
	r, err := backup.Open(location)
	if errors.Is(err, backup.ErrLocation) {
		return nil, fail(exitBadArgs, err)
	}
	if err != nil {
		return nil, err
	}
	if path := r.Location(); !strings.Contains(path, "://") {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("%s is not a directory", path)
		}
	}
	return r, nil
}

func newBackupList(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "list", Args: cobra.NoArgs, Short: "Lists the backups in a repository, oldest first"}
	open := repositoryFlag(cmd, "repository")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out, err := a.settings(cmd)
		if err != nil {
			return err
		}
		r, err := open()
		if err != nil {
			return err
		}
		inventory, err := r.List(cmd.Context())
		if err != nil {
			return err
		}
		if err := out.Print(printer.Backups(inventory.Backups)); err != nil {
			return err
		}
		for _, problem := range inventory.Problems {
			fmt.Fprintln(a.err, "Problem:", problem)
		}
		if len(inventory.Problems) > 0 {
			return fail(exitError, fmt.Errorf("%d problems in %s", len(inventory.Problems), r.Location()))
		}
		return nil
	}
	return cmd
}

func newBackupVerify(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [id ...]",
		Short: "Restores backups to a scratch directory and compares hashes",
		Long: `Restores each backup, with all that it builds on, to a scratch directory, and
compares its HashKV with what the member's was. Without arguments that is done
to the newest backup. The result is kept in the repository.`,
	}
	open := repositoryFlag(cmd, "repository")
	all := cmd.Flags().Bool("all", false, "verify every backup")
	read := cmd.Flags().Bool("read-only", false, "only read the data and compare their checksums; needs no space")
	scratch := cmd.Flags().String("scratch", os.TempDir(), "directory to restore into; what is made in it is removed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := open()
		if err != nil {
			return err
		}
		inventory, err := r.List(cmd.Context())
		if err != nil {
			return err
		}
		chosen, err := chooseBackups(inventory, args, *all)
		if err != nil {
			return err
		}
		bad := 0
		for _, m := range chosen {
			v, err := verifyOne(cmd.Context(), r, inventory, m, *read, *scratch)
			if err != nil {
				return err
			}
			if v.Error != "" {
				bad++
				fmt.Fprintf(a.out, "%s: BAD: %s\n", m.ID, v.Error)
				continue
			}
			fmt.Fprintf(a.out, "%s: good, %s in %.1fs, revision %d, HashKV %d\n", m.ID, v.Method, v.TookSeconds,
				m.ToRevision, m.Hash.Hash)
		}
		if bad > 0 {
			return fail(exitError, fmt.Errorf("%d of %d backups are not good", bad, len(chosen)))
		}
		return nil
	}
	return cmd
}

func chooseBackups(inventory *backup.Inventory, ids []string, all bool) ([]*backup.Manifest, error) {
	switch {
	case len(inventory.Backups) == 0:
		return nil, errors.New("there is no backup in this repository")
	case all:
		return inventory.Backups, nil
	case len(ids) == 0:
		return inventory.Backups[len(inventory.Backups)-1:], nil
	}
	var chosen []*backup.Manifest
	for _, id := range ids {
		m := inventory.Find(id)
		if m == nil {
			return nil, fmt.Errorf("there is no backup %s in this repository", id)
		}
		chosen = append(chosen, m)
	}
	return chosen, nil
}

func verifyOne(ctx context.Context, r *backup.Repository, inventory *backup.Inventory, m *backup.Manifest, read bool,
	scratch string) (v *backup.Verification, err error) {
	chain, chainErr := inventory.Chain(m)
	switch {
	case chainErr != nil:
		v = &backup.Verification{At: time.Now().UTC(), Method: backup.MethodRead, Error: chainErr.Error()}
	case read:
		v, err = r.VerifyByReading(ctx, m)
	default:
		v, err = r.VerifyByRestoring(ctx, chain, scratch)
	}
	if err != nil {
		return nil, err
	}
	return v, r.Record(ctx, m, v)
}

func newBackupPrune(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Args:  cobra.NoArgs,
		Short: "Removes backups that are not to be kept",
		Long: `Removes full backups beyond the limits, each with the incremental ones that build
on it. The newest full backup that was verified always stays. Run it with
--dry-run first.`,
	}
	open := repositoryFlag(cmd, "repository")
	var keep backup.Retention
	var size, cluster string
	cmd.Flags().IntVar(&keep.Count, "keep-count", 0, "how many full backups to keep (0: any number)")
	cmd.Flags().DurationVar(&keep.Age, "keep-age", 0, "how far back one can go at least (0: for ever)")
	cmd.Flags().StringVar(&size, "keep-bytes", "0", "how large the repository may be, such as 100GiB (0: any size)")
	cmd.Flags().StringVar(&cluster, "cluster-id", "", "only the backups of this cluster, in hexadecimal (default: each by itself)")
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would go, and why")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		bytes, err := humanize.ParseBytes(size)
		if err != nil || keep.Count < 0 || keep.Age < 0 {
			return badArgs("--keep-count %d, --keep-age %s, --keep-bytes %q: each must be a number or size, and not negative",
				keep.Count, keep.Age, size)
		}
		keep.Bytes = int64(bytes)
		clusterID, err := parseClusterID(cluster)
		if err != nil {
			return err
		}
		r, err := open()
		if err != nil {
			return err
		}
		decisions, err := r.Prune(cmd.Context(), clusterID, keep, *dryRun)
		done := map[bool]string{true: "would remove", false: "removed"}[*dryRun]
		for _, d := range decisions {
			what := "keep"
			if d.Remove {
				what = done
			}
			fmt.Fprintf(a.out, "%s %s (%s): %s\n", what, d.Backup.ID,
				humanize.IBytes(uint64(d.Backup.Object.SizeBytes)), d.Reason)
		}
		return err
	}
	return cmd
}

func parseClusterID(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, badArgs("--cluster-id %q is not a hexadecimal number", text)
	}
	return id, nil
}
