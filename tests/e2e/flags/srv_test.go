package flags

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"go.uber.org/zap"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/upkeep-kv/upkeep/server"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/discovery"
	"github.com/upkeep-kv/upkeep/tests/ports"
)

// names is a small DNS server: the records of a zone.
type names struct {
	srv map[string][]dnsmessage.SRVResource
	a   map[string][4]byte
}

// serve answers on loopback until the test ends and returns a resolver that asks there.
func (n names) serve(t *testing.T) *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer, err := n.answer(buf[:size]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (n names) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	q := m.Questions[0]
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	head := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60}
	name := strings.ToLower(q.Name.String())
	_, host := n.a[name]
	switch {
	case q.Type == dnsmessage.TypeSRV && len(n.srv[name]) > 0:
		for _, r := range n.srv[name] {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &r})
		}
	case q.Type == dnsmessage.TypeA && host:
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: n.a[name]}})
	case !host:
		m.RCode = dnsmessage.RCodeNameError
	}
	return m.Pack()
}

func record(host string, port int) dnsmessage.SRVResource {
	return dnsmessage.SRVResource{Priority: 1, Port: uint16(port), Target: dnsmessage.MustNewName(host)} //nolint:gosec // a port
}

// TestDiscoveryBySRV: who the founders are, as each of them finds it out.
func TestDiscoveryBySRV(t *testing.T) {
	resolver := names{
		srv: map[string][]dnsmessage.SRVResource{
			"_etcd-server._tcp.example.test.":          {record("a.example.test.", 2380), record("b.example.test.", 2380)},
			"_etcd-server-ssl._tcp.example.test.":      {record("c.example.test.", 2380), record("nowhere.example.test.", 1)},
			"_etcd-server-blue._tcp.example.test.":     {record("b.example.test.", 2380)},
			"_etcd-server-ssl-blue._tcp.example.test.": {record("b.example.test.", 2381)},
		},
		a: map[string][4]byte{"a.example.test.": {10, 0, 0, 1}, "b.example.test.": {10, 0, 0, 2}, "c.example.test.": {10, 0, 0, 3}},
	}.serve(t)
	for _, c := range []struct{ suffix, url, want string }{
		{"", "http://a.example.test:2380", "me=[http://a.example.test:2380] 0=[http://b.example.test:2380] 1=[https://c.example.test:2380] 2=[https://nowhere.example.test:1]"},
		{"", "http://10.0.0.2:2380", "me=[http://b.example.test:2380] 0=[http://a.example.test:2380] 1=[https://c.example.test:2380] 2=[https://nowhere.example.test:1]"},
		{"", "https://10.0.0.3:2380", "me=[https://c.example.test:2380] 0=[http://a.example.test:2380] 1=[http://b.example.test:2380] 2=[https://nowhere.example.test:1]"},
		{"blue", "http://b.example.test:2380", "me=[http://b.example.test:2380] 0=[https://b.example.test:2381]"},
		{"", "http://10.0.0.3:2380", "error: the SRV records and this member's peer URLs differ"}, // another scheme
		{"", "http://10.0.0.9:2380", "error: the SRV records and this member's peer URLs differ"},
		{"green", "http://10.0.0.9:2380", "error: error querying DNS SRV records for _etcd-server-ssl-green lookup _etcd-server-ssl-green._tcp.example.test"},
	} {
		founders, err := discovery.BySRV(deadline(t), resolver, "example.test", c.suffix, discovery.Founder{Name: "me", PeerURLs: []string{c.url}})
		var got []string
		for _, f := range founders {
			got = append(got, fmt.Sprintf("%s=%v", f.Name, f.PeerURLs))
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = "error: " + err.Error()
		}
		if text != c.want && (err == nil || !strings.HasPrefix(text, c.want)) {
			t.Errorf("%s %s: %s\nwant %s", c.suffix, c.url, text, c.want)
		}
	}
}

// TestFoundBySRV: two members found a cluster by the records of a domain.
func TestFoundBySRV(t *testing.T) {
	t.Parallel()
	free := ports.Free(t, 4)
	resolver := names{
		srv: map[string][]dnsmessage.SRVResource{
			"_etcd-server._tcp.example.test.": {record("a.example.test.", free[0]), record("b.example.test.", free[1])},
		},
		a: map[string][4]byte{"a.example.test.": {127, 0, 0, 1}, "b.example.test.": {127, 0, 0, 1}},
	}.serve(t)
	var members []*server.Server
	for i := range 2 {
		peer := fmt.Sprintf("http://127.0.0.1:%d", free[i])
		client := fmt.Sprintf("http://127.0.0.1:%d", free[2+i])
		cfg, err := config.Parse([]string{
			"--name", fmt.Sprintf("m%d", i), "--data-dir", t.TempDir(), "--discovery-srv", "example.test",
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--listen-client-urls", client, "--advertise-client-urls", client,
		}, nil)
		check(t, err)
		s, err := server.Start(deadline(t), cfg, server.Options{Logger: zap.NewNop(), Resolver: resolver, Dial: func(ctx context.Context, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			found, err := resolver.LookupHost(ctx, host)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(found[0], port))
		}})
		check(t, err)
		t.Cleanup(func() { check(t, s.Close()) })
		members = append(members, s)
	}
	for _, s := range members {
		select {
		case <-s.Ready():
		case <-deadline(t).Done():
			t.Fatal("no quorum")
		}
	}
	if members[0].Leader() != members[1].Leader() {
		t.Error("two clusters")
	}
}
