package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/server"
)

// lockRetry is how often a file that another process has open is tried again.
const lockRetry = 100 * time.Millisecond

func newMigrate(a *app) *cobra.Command {
	var options server.MigrateOptions
	var target string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "migrate --data-dir {dir}",
		Args:  cobra.NoArgs,
		Short: "Makes the data directory of a stopped member one that etcd starts from",
		Long: `Makes the data directory of a stopped member one that etcd of the target version
starts from. All that is known to be committed goes into the database, then the
log is replaced by one that goes on from there, and what etcd does not know goes.
Of a cluster, stop all members and migrate each one's directory.`,
	}
	f := cmd.Flags()
	f.StringVar(&options.DataDir, "data-dir", "", "data directory of the stopped member")
	f.StringVar(&options.WALDir, "wal-dir", "", "directory of the log, if not inside the data directory")
	f.StringVar(&target, "target-version", "3.7", "version of etcd that is to start from it, 3.5 to 3.7")
	f.BoolVar(&options.Force, "force", false,
		"drop entries at the end of the log that etcd cannot read, though they may have been acknowledged")
	f.DurationVar(&timeout, "timeout", defaultLockTimeout,
		"time to wait for a lock on the file, 0 to wait as long as it takes")
	_ = cmd.MarkFlagRequired("data-dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		minor, err := targetMinor(target)
		if err != nil {
			return fail(exitBadArgs, err)
		}
		if _, err := os.Stat(filepath.Join(options.DataDir, "member", "snap", "db")); err != nil {
			return err
		}
		options.Version = fmt.Sprintf("3.%d.0", minor)
		if minor > newestMinor {
			return fmt.Errorf("cannot create migration plan: version %q is not supported", options.Version)
		}
		options.Logger = a.logger()
		return migrateUnlocked(cmd.Context(), options, timeout)
	}
	return cmd
}

// migrateUnlocked waits for a process that has the directory open, such as a server that is just stopping.
func migrateUnlocked(ctx context.Context, options server.MigrateOptions, timeout time.Duration) error {
	for start := time.Now(); ; time.Sleep(lockRetry) {
		err := server.Migrate(ctx, options)
		if !errors.Is(err, backend.ErrLocked) || timeout > 0 && time.Since(start) >= timeout {
			return err
		}
	}
}

// Minor versions of etcd 3 that a directory can be made for.
const (
	oldestMinor = 5
	newestMinor = 7
)

func targetMinor(target string) (int64, error) {
	parts := strings.Split(target, ".")
	if len(parts) != 2 {
		return 0, fmt.Errorf("wrong target version format, expected \"X.Y\", got %q", target)
	}
	var numbers [2]int64
	for i, part := range parts {
		var err error
		if numbers[i], err = strconv.ParseInt(part, 10, 64); err != nil {
			return 0, fmt.Errorf("failed to parse target version: %w", err)
		}
	}
	if numbers[0] < 3 || numbers[0] == 3 && numbers[1] < oldestMinor {
		return 0, fmt.Errorf("target version %q not supported. Minimal \"3.%d\"", target, oldestMinor)
	}
	if numbers[0] > 3 {
		return 0, fmt.Errorf("target version %q not supported. Maximal \"3.%d\"", target, newestMinor)
	}
	return numbers[1], nil
}
