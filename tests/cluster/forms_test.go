package cluster_test

import (
	"crypto/sha256"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	upkeeppb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/snapshot"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// What a defragmentation says of itself, and both forms of a snapshot, while somebody writes.
func TestOwnFieldsOfMaintenance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t, cluster.Members(1))
		value := strings.Repeat("v", 64<<10)
		for range 100 {
			c.Put("k", value)
		}
		resp, err := c.Client().Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client().Compact(t.Context(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		service := upkeeppb.NewMaintenanceClient(c.Client().ActiveConnection())
		plain, compact := save(t, service, false), save(t, service, true)
		if plain.TotalSize < 2*compact.TotalSize || plain.Hash == 0 || plain.Hash != compact.Hash || plain.Revision != compact.Revision {
			t.Errorf("plain %+v, compact %+v", plain, compact)
		}
		d, err := service.Defragment(t.Context(), &upkeeppb.DefragmentRequest{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := c.Member(0).Server().HashKV(t.Context(), 0)
		if err != nil || h.Hash != d.HashKv || d.HashRevision != h.HashRevision || h.HashRevision != resp.Header.Revision {
			t.Errorf("%+v, but the hash is %+v (%v)", d, h, err)
		}
		if d.SizeBefore < 2*d.SizeAfter || d.SizeAfter != compact.TotalSize || d.BytesCopied == 0 {
			t.Errorf("%+v; a compact snapshot has %d bytes", d, compact.TotalSize)
		}
		if at := c.Member(0).Server().MaintenanceProgress(); len(at) > 0 {
			t.Errorf("still going on: %+v", at)
		}
	})
}

// save receives a snapshot, checks the hash at its end, and says what is in it.
func save(t *testing.T, service upkeeppb.MaintenanceClient, compact bool) snapshot.Info {
	t.Helper()
	stream, err := service.Snapshot(t.Context(), &upkeeppb.SnapshotRequest{Compact: compact})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	saved, err := snapshot.Save(t.Context(), snapshot.SourceFunc(func() ([]byte, uint64, error) {
		piece, err := stream.Recv()
		if err != nil {
			return nil, 0, err
		}
		return piece.Blob, piece.RemainingBytes, nil
	}), path, snapshot.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := snapshot.Status(t.Context(), path, snapshot.FileOptions{})
	if err != nil || info.TotalSize+sha256.Size != saved.Size {
		t.Fatalf("%+v of %+v: %v", info, saved, err)
	}
	return info
}
