package command

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

func newDefrag(a *app) *cobra.Command {
	var cluster, follow bool
	var dataDir string
	cmd := &cobra.Command{
		Use:   "defrag",
		Short: "Gives free space in the members' files back to the disk",
		Long: `Gives free space in the members' files back to the disk, one endpoint after the
other. With --data-dir it works on a data directory that no server has open.`,
	}
	cmd.Flags().BoolVar(&cluster, "cluster", false, "use all endpoints from the cluster member list")
	cmd.Flags().BoolVar(&follow, "progress", false, "show the phase that a member is in and how far it is")
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "defragment this data directory, which no server has open")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dataDir != "" {
			if err := a.defragFile(cmd, filepath.Join(dataDir, "member", "snap", "db")); err != nil {
				//lint:ignore ST1005 etcdutl's text
				return fmt.Errorf("Failed to defragment etcd data[%s] (%w)", dataDir, err)
			}
			return nil
		}
		return a.defragEndpoints(cmd, cluster, follow)
	}
	return cmd
}

func (a *app) defragEndpoints(cmd *cobra.Command, cluster, follow bool) error {
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
		var stop func()
		if follow {
			stop = a.followDefrag(ctx, cmd, endpoint)
		} else {
			stop = a.startProgress("defragmenting "+endpoint, false).end
		}
		start := time.Now()
		_, err := client.Defragment(ctx, endpoint)
		lasted := took(start)
		stop()
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

// askAgain is how long after a member had nothing to tell of it is asked again.
const askAgain = 200 * time.Millisecond

// followDefrag shows what a member says of its work until stop is called: as a bar on a terminal, elsewhere with a line
// for each phase. A member that cannot tell, such as one of etcd, is left alone.
func (a *app) followDefrag(ctx context.Context, cmd *cobra.Command, endpoint string) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	shown := a.startProgress("defragmenting "+endpoint, true)
	go func() {
		defer close(done)
		client, err := a.clientFor(cmd, []string{endpoint})
		if err != nil {
			return
		}
		defer closeClient(client)
		last := ""
		for ctx.Err() == nil {
			err := progressOf(ctx, client, func(p *upkeeppb.ProgressResponse) {
				job := defragJob(p)
				if job == nil {
					return
				}
				shown.setPhase(endpoint+": "+job.Phase, job.Done, job.Total)
				if shown.bar == nil && job.Phase != last {
					fmt.Fprintf(a.err, "%s: %s\n", endpoint, job.Phase)
				}
				last = job.Phase
			})
			if status.Code(err) == codes.Unimplemented {
				return
			}
			select {
			case <-time.After(askAgain):
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-done
		shown.end()
	}
}

// defragJob is the defragmentation among what a member is at, nil if there is none.
func defragJob(p *upkeeppb.ProgressResponse) *schedulepb.Job {
	for _, job := range p.Jobs {
		if job.Job == "defragmentation" {
			return job
		}
	}
	return nil
}

// progressOf calls fn with all that a member tells, until it has no more to tell.
func progressOf(ctx context.Context, client *clientv3.Client, fn func(*upkeeppb.ProgressResponse)) error {
	stream, err := upkeeppb.NewUpkeepClient(client.ActiveConnection()).Progress(ctx, &upkeeppb.ProgressRequest{})
	for err == nil {
		var p *upkeeppb.ProgressResponse
		if p, err = stream.Recv(); err == nil {
			fn(p)
		}
	}
	return err
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
