package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

func newEndpoint(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "endpoint", Short: "Endpoint related commands"}
	var cluster bool
	cmd.PersistentFlags().BoolVar(&cluster, "cluster", false, "use all endpoints from the cluster member list")
	cmd.AddCommand(newEndpointHealth(a, &cluster), newEndpointStatus(a, &cluster), newEndpointHashKV(a, &cluster))
	return cmd
}

// members returns the endpoints a per-member command works on: those given,
// or with --cluster the client URLs of all members.
func (a *app) members(cmd *cobra.Command, wholeCluster bool) ([]string, error) {
	endpoints, err := a.endpoints(cmd)
	if err != nil || !wholeCluster {
		return endpoints, err
	}
	client, err := a.clientFor(cmd, endpoints)
	if err != nil {
		return nil, err
	}
	defer closeClient(client)
	ctx, cancel := a.timeout(cmd)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return nil, fail(exitError, fmt.Errorf("failed to fetch endpoints from etcd cluster member list: %w", err))
	}
	seen := map[string]bool{}
	var all []string
	for _, m := range list.Members {
		for _, u := range m.ClientURLs {
			if !seen[u] {
				seen[u] = true
				all = append(all, u)
			}
		}
	}
	return all, nil
}

func newEndpointHealth(a *app, cluster *bool) *cobra.Command {
	cmd := &cobra.Command{Use: "health", Short: "Checks whether the endpoints can serve a read that a quorum agrees on"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out, err := a.settings(cmd)
		if err != nil {
			return err
		}
		endpoints, err := a.members(cmd, *cluster)
		if err != nil {
			return err
		}
		healths := make(printer.Healths, len(endpoints))
		clients := make([]*clientv3.Client, len(endpoints))
		for i, endpoint := range endpoints {
			start := time.Now()
			clients[i], err = a.clientFor(cmd, []string{endpoint})
			if code, _ := statusOf(err); code == exitConnection { // such as a wrong password
				healths[i] = printer.Health{Endpoint: endpoint, Took: took(start), Error: err.Error()}
				continue
			}
			if err != nil {
				return err
			}
			defer closeClient(clients[i])
		}
		var wait sync.WaitGroup
		for i, endpoint := range endpoints {
			if clients[i] != nil {
				wait.Go(func() { healths[i] = a.health(cmd, clients[i], endpoint) })
			}
		}
		wait.Wait()

		allHealthy := true
		for _, h := range healths {
			allHealthy = allHealthy && h.Health && h.Error == ""
			if h.Error != "" && a.opts.writeOut == "simple" {
				fmt.Fprintf(a.err, "%s is unhealthy: failed to commit proposal: %s\n", h.Endpoint, h.Error)
			}
		}
		if err := out.Print(healths); err != nil {
			return err
		}
		if !allHealthy {
			return fail(exitError, errors.New("unhealthy cluster"))
		}
		return nil
	}
	return cmd
}

// health reads a key with a quorum and asks for alarms. That the key may not
// be read for lack of permission is fine: the quorum agreed on it.
func (a *app) health(cmd *cobra.Command, client *clientv3.Client, endpoint string) printer.Health {
	ctx, cancel := a.timeout(cmd)
	defer cancel()
	start := time.Now()
	_, err := client.Get(ctx, "health")
	h := printer.Health{Endpoint: endpoint, Took: took(start)}
	if err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		h.Error = err.Error()
		return h
	}
	alarms, err := client.AlarmList(ctx)
	switch {
	case err != nil:
		h.Error = "Unable to fetch the alarm list"
	case len(alarms.Alarms) > 0:
		h.Error = activeAlarms(alarms.Alarms)
	default:
		h.Health = true
	}
	return h
}

func activeAlarms(alarms []*etcdserverpb.AlarmMember) string {
	var text strings.Builder
	text.WriteString("Active Alarm(s): ")
	for _, alarm := range alarms {
		if alarm.Alarm != etcdserverpb.AlarmType_NONE {
			text.WriteString(alarm.Alarm.String() + " ")
		}
	}
	return text.String()
}

// perEndpoint asks each endpoint in turn and reports those that fail on
// stderr; the last failure is returned.
func (a *app) perEndpoint(
	cmd *cobra.Command, cluster bool, what string, ask func(ctx context.Context, client *clientv3.Client, endpoint string) error,
) error {
	endpoints, err := a.members(cmd, cluster)
	if err != nil {
		return err
	}
	client, err := a.clientFor(cmd, endpoints)
	if err != nil {
		return err
	}
	defer closeClient(client)
	var failure error
	for _, endpoint := range endpoints {
		ctx, cancel := a.timeout(cmd)
		err := ask(ctx, client, endpoint)
		cancel()
		if err != nil {
			failure = err
			fmt.Fprintf(a.err, "Failed to get the %s of endpoint %s (%v)\n", what, endpoint, err)
		}
	}
	return failure
}

func newEndpointStatus(a *app, cluster *bool) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows the status of the endpoints",
		Long: `Shows the status of the endpoints. In the simple output format the items of a
line are those of the table: endpoint, ID, version, storage version, db size,
in use, percentage not in use, quota, is leader, is learner, raft term, raft
index, raft applied index, errors, downgrade target version, downgrade enabled.`,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out, err := a.settings(cmd)
		if err != nil {
			return err
		}
		var statuses printer.Statuses
		asked := a.perEndpoint(cmd, *cluster, "status", func(ctx context.Context, client *clientv3.Client, endpoint string) error {
			resp, err := client.Status(ctx, endpoint)
			if err == nil {
				statuses = append(statuses, printer.Status{Endpoint: endpoint, Status: resp})
			}
			return err
		})
		if status := new(exitStatus); errors.As(asked, &status) {
			return asked // nobody was asked at all
		}
		if err := out.Print(statuses); err != nil {
			return err
		}
		if asked != nil {
			return failed(exitError)
		}
		return nil
	}
	return cmd
}

func newEndpointHashKV(a *app, cluster *bool) *cobra.Command {
	var revision int64
	cmd := &cobra.Command{Use: "hashkv", Short: "Shows the hash of the key history on each endpoint"}
	cmd.Flags().Int64Var(&revision, "rev", 0, "largest revision to hash (default: the newest)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out, err := a.settings(cmd)
		if err != nil {
			return err
		}
		var hashes printer.EndpointHashes
		asked := a.perEndpoint(cmd, *cluster, "hash", func(ctx context.Context, client *clientv3.Client, endpoint string) error {
			resp, err := client.HashKV(ctx, endpoint, revision)
			if err == nil {
				hashes = append(hashes, printer.EndpointHash{Endpoint: endpoint, HashKV: resp})
			}
			return err
		})
		if status := new(exitStatus); errors.As(asked, &status) {
			return asked
		}
		if err := out.Print(hashes); err != nil {
			return err
		}
		return asked
	}
	return cmd
}
