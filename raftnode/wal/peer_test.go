package wal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
	"github.com/upkeep-kv/upkeep/proto/walpb"
	"github.com/upkeep-kv/upkeep/tests/ports"
)

// peer is a stock etcd, run as a black box.
type peer struct {
	cmd    *exec.Cmd
	client string
	log    bytes.Buffer
}

func peerBinary(t *testing.T) string {
	bin, err := filepath.Abs("../../bin/peer/etcd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("needs etcd to compare with: %v", err)
	}
	return bin
}

func startPeer(t *testing.T, dataDir, peerURL string) *peer {
	p := &peer{client: "http://" + ports.Address(t)}
	p.cmd = exec.Command(peerBinary(t), "--data-dir", dataDir,
		"--listen-client-urls", p.client, "--advertise-client-urls", p.client,
		"--listen-peer-urls", peerURL, "--initial-advertise-peer-urls", peerURL,
		"--initial-cluster", "default="+peerURL, "--unsafe-no-fsync")
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.stop(t) })
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, err := http.Get(p.client + "/health")
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if strings.Contains(string(body), `"true"`) {
				return p
			}
		}
		if time.Now().After(deadline) {
			p.stop(t)
			t.Fatalf("etcd does not become healthy:\n%s", p.log.String())
		}
		<-time.After(50 * time.Millisecond)
	}
}

func (p *peer) stop(t *testing.T) {
	if p.cmd.ProcessState != nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.cmd.Wait()
}

func (p *peer) call(t *testing.T, path, body string) map[string]any {
	t.Helper()
	resp, err := http.Post(p.client+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPeerRoundTrip lets etcd write a log, reads it, appends to it, and lets etcd go on from there.
func TestPeerRoundTrip(t *testing.T) {
	dataDir := filepath.Join(t.TempDir(), "d")
	peerURL := "http://" + ports.Address(t)
	p := startPeer(t, dataDir, peerURL)
	for i := range 20 {
		p.call(t, "/v3/kv/put", fmt.Sprintf(`{"key":"Zm9v","value":"%s"}`, strings.Repeat("YmFy", i)))
	}
	p.stop(t)

	walDir := filepath.Join(dataDir, "member", "wal")
	original, err := vfs.ReadFile(vfs.OS{}, filepath.Join(walDir, segment{}.name()))
	if err != nil {
		t.Fatal(err)
	}
	reencodes(t, walDir, original)

	w, rec, err := Open(vfs.OS{}, walDir)
	if err != nil {
		t.Fatal(err)
	}
	if rec.Repaired != "" {
		t.Fatalf("repaired what etcd had closed: %s", rec.Repaired)
	}
	if n := len(rec.Entries); n < 23 || rec.HardState.GetCommit() != uint64(n) {
		t.Fatalf("%d entries, state %v", n, rec.HardState)
	}
	last := rec.Entries[len(rec.Entries)-1]
	commit := last.GetIndex()
	for range 3 { // three syncs, so crc records stand in the middle of the segment
		commit++
		req := &pb.InternalRaftRequest{
			Header: &pb.RequestHeader{ID: 1<<60 + commit},
			Put:    &pb.PutRequest{Key: fmt.Appendf(nil, "ours-%d", commit), Value: []byte("v")},
		}
		data, err := req.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		ent := &raftpb.Entry{Term: new(last.GetTerm()), Index: new(commit), Data: data}
		hs := &raftpb.HardState{Term: new(last.GetTerm()), Vote: new(rec.HardState.GetVote()), Commit: new(commit)}
		if err := w.Append(hs, []*raftpb.Entry{ent}, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	p = startPeer(t, dataDir, peerURL)
	if got := p.call(t, "/v3/kv/range", `{"key":"b3Vycw==","range_end":"b3VydA==","count_only":true}`); got["count"] != "3" {
		t.Fatalf("etcd sees %v of the entries appended\n%s", got, p.log.String())
	}
	p.call(t, "/v3/kv/put", `{"key":"Zm9v","value":"YmFy"}`)
	p.stop(t)
	if rec, err = Load(vfs.OS{}, walDir); err != nil || rec.HardState.GetCommit() <= commit || rec.Repaired != "" {
		t.Fatalf("after etcd went on: %v %+v", err, rec)
	}
}

// reencodes checks that the encoder writes byte for byte what etcd wrote.
func reencodes(t *testing.T, walDir string, original []byte) {
	t.Helper()
	e := &encoder{}
	c := &collector{}
	_, err := Read(vfs.OS{}, walDir, func(r Record) error {
		if r.Type == TypeEntry {
			if err := c.record(r); err != nil {
				return err
			}
			last := &c.runs[len(c.runs)-1]
			e.entry(last.ents[len(last.ents)-1])
			return nil
		}
		if r.Type == TypeState {
			if err := c.record(r); err != nil {
				return err
			}
			e.state(c.state)
			return nil
		}
		if r.Type == TypeCRC {
			e.crcRecord()
			return nil
		}
		e.record(r.Type, r.Data, nil)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.buf, original[:len(e.buf)]) {
		t.Fatalf("encoded differently:\n%x\n%x", e.buf, original[:len(e.buf)])
	}
}

// TestPeerBootstrapBytes compares the start of a new log, byte for byte, with that of a stock etcd's.
func TestPeerBootstrapBytes(t *testing.T) {
	peerURL := "http://" + ports.Address(t)
	stockDir := filepath.Join(t.TempDir(), "stock")
	p := startPeer(t, stockDir, peerURL)
	p.stop(t)
	var members []BootstrapMember
	var md *walpb.Metadata
	c := &collector{}
	_, err := Read(vfs.OS{}, filepath.Join(stockDir, "member", "wal"), func(r Record) error { return c.record(r) })
	if err != nil {
		t.Fatal(err)
	}
	md = c.metadata
	cc := decodeConfChange(t, c.runs[0].ents[0])
	members = append(members, BootstrapMember{ID: cc.GetNodeId(), Context: cc.GetContext()})

	dataDir := filepath.Join(t.TempDir(), "ours")
	walDir := filepath.Join(dataDir, "member", "wal")
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dataDir, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Bootstrap(vfs.OS{}, walDir, md, BootstrapState{Members: members}); err != nil {
		t.Fatal(err)
	}
	ours, err := vfs.ReadFile(vfs.OS{}, filepath.Join(walDir, segment{}.name()))
	if err != nil {
		t.Fatal(err)
	}
	stock, err := vfs.ReadFile(vfs.OS{}, filepath.Join(stockDir, "member", "wal", segment{}.name()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours, stock[:len(ours)]) {
		t.Fatalf("the first records differ:\n%x\n%x", ours, stock[:len(ours)])
	}
}
