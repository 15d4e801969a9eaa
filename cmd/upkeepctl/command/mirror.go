package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
)

// mirrorReport is how often make-mirror tells how many keys it has written.
const mirrorReport = 30 * time.Second

type mirrorFlags struct {
	prefix, destPrefix string
	noDestPrefix       bool
	rev                int64
	maxOps             uint
	dest               globalOptions // only what the flags below fill in
}

func newMakeMirror(a *app) *cobra.Command {
	var f mirrorFlags
	cmd := &cobra.Command{
		Use:   "make-mirror [options] <destination>",
		Short: "Copies keys to another cluster, and all changes of them, until interrupted",
	}
	flags := cmd.Flags()
	flags.StringVar(&f.prefix, "prefix", "", "mirror only keys with this prefix")
	flags.Int64Var(&f.rev, "rev", 0, "mirror only changes from this revision on, not what is there")
	flags.UintVar(&f.maxOps, "max-txn-ops", 128, "largest number of changes in one transaction at the destination")
	flags.StringVar(&f.destPrefix, "dest-prefix", "", "prefix that takes the place of the mirrored one")
	flags.BoolVar(&f.noDestPrefix, "no-dest-prefix", false, "leave the mirrored prefix out at the destination")
	flags.StringVar(&f.dest.cert, "dest-cert", "", "client certificate file for the destination")
	flags.StringVar(&f.dest.key, "dest-key", "", "client key file for the destination")
	flags.StringVar(&f.dest.cacert, "dest-cacert", "", "certificate authorities that the destination is verified with")
	flags.BoolVar(&f.dest.insecureTransport, "dest-insecure-transport", true, "disable transport security to the destination")
	flags.StringVar(&f.dest.user, "dest-user", "", "username[:password] at the destination (prompts if there is no password)")
	flags.StringVar(&f.dest.password, "dest-password", "", "password at the destination (then --dest-user has only the name)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return badArgs("make-mirror takes one destination argument")
		}
		if f.destPrefix != "" && f.noDestPrefix {
			return badArgs("`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one")
		}
		return a.makeMirror(cmd, args[0], &f)
	}
	return cmd
}

func (a *app) makeMirror(cmd *cobra.Command, destination string, f *mirrorFlags) error {
	source, _, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer closeClient(source)
	there := *a
	there.opts = a.opts
	there.opts.cert, there.opts.key, there.opts.cacert = f.dest.cert, f.dest.key, f.dest.cacert
	there.opts.insecureTransport, there.opts.insecureSkipVerify = f.dest.insecureTransport, false
	there.opts.user, there.opts.password, there.opts.token = f.dest.user, f.dest.password, ""
	there.opts.discoverySRV = ""
	dest, err := there.clientFor(cmd, []string{destination})
	if err != nil {
		return err
	}
	defer closeClient(dest)
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	m := &mirroring{f: f, dest: dest}
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		tick := time.NewTicker(mirrorReport)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Fprintln(a.out, m.total.Load())
			case <-ctx.Done():
				return
			}
		}
	}()
	err = m.run(ctx, source)
	cancel()
	<-reported
	return err
}

// mirroring writes to one destination.
type mirroring struct {
	f     *mirrorFlags
	dest  *clientv3.Client
	total atomic.Int64 // keys written and deleted
	ops   []clientv3.Op
	rev   int64 // of the changes in ops
}

func (m *mirroring) run(ctx context.Context, source *clientv3.Client) error {
	syncer := mirror.NewSyncer(source, m.f.prefix, max(m.f.rev-1, 0))
	if m.f.rev <= 1 {
		pairs, errs := syncer.SyncBase(ctx)
		for resp := range pairs {
			for _, kv := range resp.Kvs {
				if _, err := m.dest.Put(ctx, m.name(kv.Key), string(kv.Value)); err != nil {
					return err
				}
				m.total.Add(1)
			}
		}
		if err := <-errs; err != nil {
			return err
		}
	}
	for resp := range syncer.SyncUpdates(ctx) {
		if resp.CompactRevision != 0 {
			return rpctypes.ErrCompacted
		}
		if err := resp.Err(); err != nil {
			return err
		}
		for _, event := range resp.Events {
			if err := m.add(ctx, (*mvccpb.Event)(event)); err != nil {
				return err
			}
		}
		if err := m.flush(ctx); err != nil {
			return err
		}
	}
	return errors.New("the watch of the source has ended")
}

// add puts a change in line. What is of one revision at the source is one transaction at the destination, as far as
// --max-txn-ops allows.
func (m *mirroring) add(ctx context.Context, event *mvccpb.Event) error {
	if event.Kv.ModRevision != m.rev || uint(len(m.ops)) >= m.f.maxOps {
		if err := m.flush(ctx); err != nil {
			return err
		}
	}
	m.rev = event.Kv.ModRevision
	key := m.name(event.Kv.Key)
	if event.Type == mvccpb.Event_DELETE {
		m.ops = append(m.ops, clientv3.OpDelete(key))
	} else {
		m.ops = append(m.ops, clientv3.OpPut(key, string(event.Kv.Value)))
	}
	return nil
}

func (m *mirroring) flush(ctx context.Context) error {
	if len(m.ops) == 0 {
		return nil
	}
	if _, err := m.dest.Txn(ctx).Then(m.ops...).Commit(); err != nil {
		return err
	}
	m.total.Add(int64(len(m.ops)))
	m.ops = nil
	return nil
}

// name is what a key is called at the destination.
func (m *mirroring) name(key []byte) string {
	if m.f.destPrefix == "" && !m.f.noDestPrefix {
		return string(key)
	}
	return m.f.destPrefix + strings.TrimPrefix(string(key), m.f.prefix)
}
