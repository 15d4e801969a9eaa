package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/proto/schedulepb"
	"github.com/upkeep-kv/upkeep/proto/upkeeppb"
)

const bigValueBytes = 4096

// withoutMaintenance is the row that the others are compared with.
const withoutMaintenance = "no maintenance"

// ourFlags keep a member that maintains itself from doing so while something else is measured.
var ourFlags = []string{"--upkeep-defrag=false", "--upkeep-check-interval=0"}

// upkeepRows are the kinds of maintenance, in an order in which none takes from the next what it is about.
func (b *bench) upkeepRows(keys int) []struct {
	name string
	do   maintain
} {
	return []struct {
		name string
		do   maintain
	}{
		{"hash", b.again(hashKV)},
		{"snapshot", b.again(saveSnapshot)},
		{"backup", b.again(b.verifiedBackup)},
		{"compaction", b.compaction},
		{"defrag", defragment},
	}
}

// maintenance measures what requests notice of maintenance of a large store on one member.
func (b *bench) maintenance(ctx context.Context) error {
	return b.turns(func(_ int, server contender) error { return b.maintenanceOf(ctx, server, b.sizeBytes, b.wants) })
}

// large repeats the defragmentation on a larger store, of which as large a share is in use.
func (b *bench) large(ctx context.Context) error {
	return b.turns(func(_ int, server contender) error {
		return b.maintenanceOf(ctx, server, b.largeBytes, func(row string) bool { return row == "defrag" })
	})
}

func (b *bench) maintenanceOf(ctx context.Context, server contender, size int64, wants func(string) bool) error {
	c, keys, err := b.fragmented(ctx, server, 1, size)
	if err != nil {
		return err
	}
	defer c.remove()
	of := ", " + humanize.IBytes(uint64(size))
	if err := b.under(ctx, c, keys, withoutMaintenance+of, b.nothing); err != nil {
		return err
	}
	for _, row := range b.upkeepRows(keys) {
		if !wants(row.name) {
			continue
		}
		if row.name == "compaction" {
			if err := b.revise(ctx, c); err != nil {
				return err
			}
		}
		if err := b.under(ctx, c, keys, row.name+of, row.do); err != nil {
			return err
		}
	}
	return nil
}

// cycle measures a whole round of defragmentations of three members, the leader's turn included.
func (b *bench) cycle(ctx context.Context) error {
	return b.turns(func(_ int, server contender) error {
		c, keys, err := b.fragmented(ctx, server, 3, b.sizeBytes)
		if err != nil {
			return err
		}
		defer c.remove()
		of := ", 3 members, " + humanize.IBytes(uint64(b.sizeBytes))
		if err := b.under(ctx, c, keys, withoutMaintenance+of, b.nothing); err != nil {
			return err
		}
		return b.under(ctx, c, keys, "cycle of defrags"+of, defragAll)
	})
}

// fragmented starts members with a store of a size of which only a part is in use. It returns how many keys are left.
func (b *bench) fragmented(ctx context.Context, server contender, members int, size int64) (_ *cluster, left int, err error) {
	if server.ours {
		server.command = append(slices.Clone(server.command), ourFlags...)
	}
	c, err := startFresh(ctx, server, b.dir, members)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			c.remove()
		}
	}()
	keys := int(size / bigValueBytes)
	left = int(float64(keys) * float64(b.inUseBytes) / float64(b.sizeBytes))
	if err := fill(ctx, c, "big", keys, bigValueBytes); err != nil {
		return nil, 0, err
	}
	const perDelete = 500
	if err := inParallel(ctx, c, 8, (keys-left+perDelete-1)/perDelete, func(ctx context.Context, client *clientv3.Client, part int) error {
		from := left + part*perDelete
		_, err := client.Delete(ctx, keyName("big", from), clientv3.WithRange(keyName("big", min(keys, from+perDelete))))
		return err
	}); err != nil {
		return nil, 0, err
	}
	client, err := dial(c.endpoints...)
	if err != nil {
		return nil, 0, err
	}
	defer client.Close()
	if err := compactAll(ctx, client); err != nil {
		return nil, 0, err
	}
	return c, left, b.settle(ctx, c, client)
}

// settle waits until every member has deleted what was compacted, and committed that.
func (b *bench) settle(ctx context.Context, c *cluster, client *clientv3.Client) error {
	for _, endpoint := range c.endpoints {
		last := int64(-1)
		for quiet := 0; quiet < 3; {
			if _, err := client.Put(ctx, "settle", "v"); err != nil {
				return err
			}
			status, err := client.Status(ctx, endpoint)
			if err != nil {
				return err
			}
			if quiet++; status.DbSizeInUse < last-(1<<20) || last < 0 {
				quiet = 0
			}
			last = status.DbSizeInUse
			pause(ctx, time.Second)
		}
	}
	return ctx.Err()
}

// nothing is no maintenance.
func (b *bench) nothing(ctx context.Context, _ *cluster, _ *clientv3.Client) error {
	pause(ctx, b.duration)
	return ctx.Err()
}

// again repeats what can be repeated until there are enough requests to tell.
func (b *bench) again(do maintain) maintain {
	return func(ctx context.Context, c *cluster, operator *clientv3.Client) error {
		for end := time.Now().Add(b.duration); ; {
			if err := do(ctx, c, operator); err != nil || !time.Now().Before(end) {
				return err
			}
		}
	}
}

func hashKV(ctx context.Context, c *cluster, operator *clientv3.Client) error {
	_, err := operator.HashKV(ctx, c.endpoints[0], 0)
	return err
}

func defragment(ctx context.Context, c *cluster, operator *clientv3.Client) error {
	_, err := operator.Defragment(ctx, c.endpoints[0])
	return err
}

// saveSnapshot receives a snapshot into a file, as a backup job on the same disk does.
func saveSnapshot(ctx context.Context, c *cluster, operator *clientv3.Client) error {
	file, err := receive(ctx, c, operator)
	return errors.Join(err, os.RemoveAll(file))
}

func receive(ctx context.Context, c *cluster, operator *clientv3.Client) (name string, err error) {
	snapshot, err := operator.SnapshotWithVersion(ctx)
	if err != nil {
		return "", err
	}
	defer snapshot.Snapshot.Close()
	file, err := os.CreateTemp(c.dir, "snapshot")
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := io.Copy(file, snapshot.Snapshot); err != nil {
		return file.Name(), err
	}
	return file.Name(), file.Sync()
}

// verifiedBackup takes a backup and restores it to prove it. Ours does that by itself; for the other one it is the job of a
// script with etcdutl.
func (b *bench) verifiedBackup(ctx context.Context, c *cluster, operator *clientv3.Client) error {
	dir, err := os.MkdirTemp(c.dir, "backup")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if c.server.ours {
		return runMaintenance(ctx, operator, schedulepb.Kind_BACKUP, map[string]string{"destination": dir, "backup": "full"})
	}
	file, err := receive(ctx, c, operator)
	defer os.RemoveAll(file)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, b.etcdutl, "snapshot", "restore", file, "--data-dir", filepath.Join(dir, "restored")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", b.etcdutl, err, out)
	}
	return nil
}

// revise writes revisions of few keys, one revision per request.
func (b *bench) revise(ctx context.Context, c *cluster) error {
	return inParallel(ctx, c, 500, b.revisions, func(ctx context.Context, client *clientv3.Client, part int) error {
		_, err := client.Put(ctx, keyName("old", part%1000), fmt.Sprintf("%0*d", valueBytes, part))
		return err
	})
}

func (b *bench) compaction(ctx context.Context, _ *cluster, operator *clientv3.Client) error {
	return compactAll(ctx, operator)
}

// compactAll forgets all history, and returns when the member that was asked has deleted it.
func compactAll(ctx context.Context, client *clientv3.Client) error {
	now, err := client.Get(ctx, "first")
	if err != nil {
		return err
	}
	_, err = client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	return err
}

// defragAll gives every member its turn: followers first, then leadership moves, then the member that led. Ours does that
// by itself; for the other one it is done as operators are told to.
func defragAll(ctx context.Context, c *cluster, operator *clientv3.Client) error {
	if c.server.ours {
		return runMaintenance(ctx, operator, schedulepb.Kind_DEFRAG, map[string]string{"move-leader": "true"})
	}
	var leader, follower uint64
	last := ""
	for _, endpoint := range c.endpoints {
		status, err := operator.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		if status.Leader == status.Header.MemberId {
			leader, last = status.Leader, endpoint
			continue
		}
		follower = status.Header.MemberId
		if _, err := operator.Defragment(ctx, endpoint); err != nil {
			return err
		}
	}
	if leader == 0 {
		return errors.New("nobody led")
	}
	client, err := dial(last) // only the leader hands over
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.MoveLeader(ctx, follower); err != nil {
		return err
	}
	_, err = operator.Defragment(ctx, last)
	return err
}

// runMaintenance asks a server of ours for maintenance and waits until that is over.
func runMaintenance(ctx context.Context, operator *clientv3.Client, kind schedulepb.Kind, parameters map[string]string) error {
	request := &upkeeppb.RunRequest{Kind: kind}
	for name, value := range parameters {
		request.Parameters = append(request.Parameters, &schedulepb.Parameter{Name: name, Value: value})
	}
	client := upkeeppb.NewUpkeepClient(operator.ActiveConnection())
	opened, err := client.Run(ctx, request)
	if err != nil {
		return err
	}
	stream, err := client.Follow(ctx, &upkeeppb.FollowRequest{Run: opened.Run})
	for err == nil {
		var resp *upkeeppb.FollowResponse
		if resp, err = stream.Recv(); err == nil && resp.Run != nil {
			if resp.Run.State != schedulepb.Run_SUCCEEDED {
				return fmt.Errorf("%s: %s", strings.ToLower(kind.String()), resp.Run.Message)
			}
			return nil
		}
	}
	return err
}
