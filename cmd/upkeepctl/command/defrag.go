package command

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/upkeep-kv/upkeep/backend"
)

func newDefrag(a *app) *cobra.Command {
	var cluster bool
	var dataDir string
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Gives free space in the members' files back to the disk",
		Long: `Gives free space in the members' files back to the disk, one endpoint after the
other. With --data-dir it works on a data directory that no server has open.`,
	}
	cmd.Flags().BoolVar(&cluster, "cluster", false, "use all endpoints from the cluster member list")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "defragment this data directory, which no server has open")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dataDir != "" {
			if err := a.defragFile(cmd, filepath.Join(dataDir, "member", "snap", "db")); err != nil {
				//lint:ignore ST1005 etcdutl's text
				return fmt.Errorf("Failed to defragment etcd data[%s] (%w)", dataDir, err)
			}
			return nil
		}
		return a.defragEndpoints(cmd, cluster)
	}
	return cmd
}

func (a *app) defragEndpoints(cmd *cobra.Command, cluster bool) error {
	if _, err := a.settings(cmd); err != nil {
		return err
	}
	endpoints, err := a.members(cmd, cluster)
	if err != nil {
		return err
	}
	client, err := a.clientFor(cmd, endpoints)
	if err != nil {
		return err
	}
	defer closeClient(client)
	failures := 0
	for _, endpoint := range endpoints {
		ctx, cancel := a.timeout(cmd)
		shown := a.startProgress("defragmenting "+endpoint, false)
		start := time.Now()
		_, err := client.Defragment(ctx, endpoint)
		lasted := took(start)
		shown.end()
		cancel()
		if err != nil {
			fmt.Fprintf(a.err, "Failed to defragment etcd member[%s]. took %s. (%v)\n", endpoint, lasted, err)
			failures++
			continue
		}
		fmt.Fprintf(a.out, "Finished defragmenting etcd member[%s]. took %s\n", endpoint, lasted)
	}
	if failures > 0 {
		return failed(exitError)
	}
	return nil
}

// defragFile is silent, as etcdutl is, but for the progress on a terminal.
func (a *app) defragFile(cmd *cobra.Command, path string) error {
	if err := fileExists(path); err != nil {
		return err // opening would create it
	}
	shown := a.startProgress("defragmenting "+path, true)
	defer shown.end()
	db, err := backend.Open(backend.Config{Path: path, Logger: a.logger()})
	if err != nil {
		return err
	}
	_, err = db.Defrag(cmd.Context(), backend.DefragOptions{Progress: shown.setPhase})
	if closeErr := db.Close(); err == nil {
		err = closeErr
	}
	return err
}
