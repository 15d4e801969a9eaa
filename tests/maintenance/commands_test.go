package maintenance

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/snapshot"
)

// commands is the language of the scripts.
func commands() map[string]command {
	return map[string]command{
		"cluster": {"[members=] [quota=] [quota-m0=] [quota-m1=] [quota-m2=] [retention=] [heartbeat=]", (*script).cluster},

		"put":      {"KEY VALUE [on=] [lease=] [times=]", (*script).put},
		"get":      {"KEY [on=] [rev=] [prefix] [count]", (*script).get},
		"delete":   {"KEY [on=] [prefix]", (*script).delete},
		"write":    {"KEY [on=] [times=] [size=]", (*script).write},
		"fill":     {"KEY [on=] [size=]", (*script).fill},
		"revision": {"[on=]", (*script).revision},

		"lease":     {"NAME [ttl=] [on=]", (*script).grant},
		"keepalive": {"NAME [on=]", (*script).keepalive},
		"revoke":    {"NAME [on=]", (*script).revoke},
		"ttl":       {"NAME [on=]", (*script).timeToLive},

		"watch":    {"NAME KEY [on=] [rev=] [prefix] [prev]", (*script).watch},
		"events":   {"NAME COUNT", (*script).events},
		"progress": {"NAME", (*script).progress},

		"compact-now":       {"[on=]", (*script).compactNow},
		"compact":           {"REVISION [on=]", (*script).compact},
		"defrag":            {"MEMBER", (*script).defrag},
		"defrag-under-load": {"MEMBER [puts=]", (*script).defragUnderLoad},
		"hashes":            {"", (*script).hashes},
		"alarms":            {"[on=]", (*script).alarms},
		"disarm":            {"[on=]", (*script).disarm},
		"snapshot":          {"NAME [on=]", (*script).save},
		"restore":           {"NAME [to-revision=] [bump=] [mark-compacted]", (*script).restore},

		"members":      {"[on=]", (*script).members},
		"add":          {"MEMBER [learner] [not-started]", (*script).add},
		"promote":      {"MEMBER [on=]", (*script).promote},
		"remove":       {"MEMBER [on=]", (*script).remove},
		"move-leader":  {"MEMBER", (*script).moveLeader},
		"await-leader": {"", (*script).awaitLeader},

		"stop":    {"MEMBER", life(world.stop, "stopped")},
		"kill":    {"MEMBER", life(world.kill, "killed")},
		"restart": {"MEMBER", life(world.restart, "serves")},
		"pass":    {"DURATION", (*script).pass},
	}
}

func life(do func(world, string), said string) func(*script, args) (string, error) {
	return func(s *script, a args) (string, error) {
		do(s.world, a.word(0))
		return a.word(0) + " " + said, nil
	}
}

func (s *script) cluster(a args) (string, error) {
	sp := spec{quota: map[string]int64{}}
	var err error
	if sp.members, err = strconv.Atoi(a.or("members", "3")); err != nil {
		return "", err
	}
	for i := range sp.members {
		m := fmt.Sprintf("m%d", i)
		if text := a.or("quota-"+m, a.or("quota", "")); text != "" {
			if sp.quota[m], err = parseSize(text); err != nil {
				return "", err
			}
		}
	}
	for name, into := range map[string]*time.Duration{"retention": &sp.retention, "heartbeat": &sp.heartbeat} {
		if a.has(name) {
			if *into, err = time.ParseDuration(a.named[name]); err != nil {
				return "", err
			}
		}
	}
	s.world.start(sp)
	s.added = sp.members
	return fmt.Sprintf("%s serve", strings.Join(s.world.running(), ", ")), nil
}

// first is the member that is asked where a command does not say.
func (s *script) first() string { return s.world.running()[0] }

func (s *script) client(a args) *clientv3.Client { return s.world.client(a.on(s.first())) }

func (s *script) put(a args) (string, error) {
	times, err := strconv.Atoi(a.or("times", "1"))
	if err != nil {
		return "", err
	}
	var opts []clientv3.OpOption
	if a.has("lease") {
		opts = append(opts, clientv3.WithLease(s.leases[a.named["lease"]]))
	}
	var from, to int64
	for i := range times {
		value := a.word(1)
		if times > 1 {
			value += strconv.Itoa(i)
		}
		ctx, cancel := s.context()
		resp, err := s.client(a).Put(ctx, a.word(0), value, opts...)
		cancel()
		if err != nil {
			return "", err
		}
		if to = resp.Header.Revision; i == 0 {
			from = to
		}
	}
	if times > 1 {
		return fmt.Sprintf("revisions %d to %d", from, to), nil
	}
	return fmt.Sprintf("revision %d", to), nil
}

func (s *script) get(a args) (string, error) {
	var opts []clientv3.OpOption
	if a.has("rev") {
		rev, err := strconv.ParseInt(a.named["rev"], 10, 64)
		if err != nil {
			return "", err
		}
		opts = append(opts, clientv3.WithRev(rev))
	}
	if a.has("prefix") {
		opts = append(opts, clientv3.WithPrefix())
	}
	if a.has("count") {
		opts = append(opts, clientv3.WithCountOnly())
	}
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).Get(ctx, a.word(0), opts...)
	if err != nil {
		return "", err
	}
	if a.has("count") {
		return fmt.Sprintf("%d keys", resp.Count), nil
	}
	var b strings.Builder
	for _, kv := range resp.Kvs {
		value := string(kv.Value)
		if len(value) > 40 {
			value = fmt.Sprintf("(%d bytes)", len(value))
		}
		fmt.Fprintf(&b, "%s = %s, revision %d, version %d\n", kv.Key, value, kv.ModRevision, kv.Version)
	}
	if b.Len() == 0 {
		return "none", nil
	}
	return b.String(), nil
}

func (s *script) delete(a args) (string, error) {
	var opts []clientv3.OpOption
	if a.has("prefix") {
		opts = append(opts, clientv3.WithPrefix())
	}
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).Delete(ctx, a.word(0), opts...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d deleted, revision %d", resp.Deleted, resp.Header.Revision), nil
}

// fill puts values until that is refused.
func (s *script) fill(a args) (string, error) {
	size, err := parseSize(a.or("size", "64KB"))
	if err != nil {
		return "", err
	}
	value := strings.Repeat("v", int(size))
	for range 2000 {
		ctx, cancel := s.context()
		_, err := s.client(a).Put(ctx, a.word(0), value)
		cancel()
		if err != nil {
			return "refused: " + describe(err), nil
		}
		// Members measure what they have committed.
		if err := s.world.pass(20 * time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", errors.New("2000 puts were not refused")
}

func (s *script) revision(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).Get(ctx, "any")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("revision %d", resp.Header.Revision), nil
}

func (s *script) grant(a args) (string, error) {
	ttl, err := strconv.ParseInt(a.or("ttl", "60"), 10, 64)
	if err != nil {
		return "", err
	}
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).Grant(ctx, ttl)
	if err != nil {
		return "", err
	}
	s.leases[a.word(0)] = resp.ID
	return fmt.Sprintf("granted for %d s", resp.TTL), nil
}

func (s *script) keepalive(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).KeepAliveOnce(ctx, s.leases[a.word(0)])
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("renewed for %d s", resp.TTL), nil
}

func (s *script) revoke(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	if _, err := s.client(a).Revoke(ctx, s.leases[a.word(0)]); err != nil {
		return "", err
	}
	return "revoked", nil
}

func (s *script) timeToLive(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).TimeToLive(ctx, s.leases[a.word(0)], clientv3.WithAttachedKeys())
	if err != nil {
		return "", err
	}
	if resp.TTL < 0 {
		return "gone", nil
	}
	return fmt.Sprintf("granted for %d s, lives, keys %q", resp.GrantedTTL, resp.Keys), nil
}

func (s *script) compact(a args) (string, error) {
	rev, err := strconv.ParseInt(a.word(0), 10, 64)
	if err != nil {
		return "", fmt.Errorf("%q is no revision", a.word(0))
	}
	ctx, cancel := s.context()
	defer cancel()
	if _, err := s.client(a).Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
		return "", err
	}
	return "compacted", nil
}

// some are the members that a word means: one, or all that run.
func (s *script) some(word string) []string {
	if word == "all" {
		return s.world.running()
	}
	return []string{word}
}

func (s *script) size(member string) (int64, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.world.client(member).Status(ctx, s.world.clientURL(member))
	if err != nil {
		return 0, err
	}
	return resp.DbSize, nil
}

func (s *script) defrag(a args) (string, error) {
	var b strings.Builder
	for _, m := range s.some(a.word(0)) {
		before, err := s.size(m)
		if err != nil {
			return "", err
		}
		ctx, cancel := s.context()
		_, err = s.world.client(m).Defragment(ctx, s.world.clientURL(m))
		cancel()
		if err != nil {
			return "", err
		}
		after, err := s.size(m)
		if err != nil {
			return "", err
		}
		said := "is no smaller"
		if after < before/2 {
			said = "is less than half as large"
		}
		fmt.Fprintf(&b, "%s %s\n", m, said)
	}
	return b.String(), nil
}

// defragUnderLoad defragments while a client puts.
func (s *script) defragUnderLoad(a args) (string, error) {
	puts, err := strconv.Atoi(a.or("puts", "200"))
	if err != nil {
		return "", err
	}
	client := s.world.client(a.word(0))
	var load sync.WaitGroup
	var failed error
	load.Go(func() {
		for i := range puts {
			ctx, cancel := s.context()
			_, err := client.Put(ctx, fmt.Sprintf("load/%d", i), "v")
			cancel()
			failed = errors.Join(failed, err)
		}
	})
	outcome, err := s.defrag(a)
	load.Wait()
	if err = errors.Join(err, failed); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%d puts acknowledged meanwhile", outcome, puts), nil
}

// hashes compares the members' histories as soon as they are at the same revision.
func (s *script) hashes(args) (string, error) {
	var last string
	for range 100 {
		seen := map[string][]string{}
		for _, m := range s.world.running() {
			ctx, cancel := s.context()
			h, err := s.world.client(m).HashKV(ctx, s.world.clientURL(m), 0)
			cancel()
			if err != nil {
				return "", err
			}
			key := fmt.Sprintf("%08x at %d above %d", h.Hash, h.HashRevision, h.CompactRevision)
			seen[key] = append(seen[key], m)
		}
		if last = fmt.Sprint(seen); len(seen) == 1 {
			return "equal", nil
		}
		if err := s.world.pass(100 * time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", errors.New("not equal: " + last)
}

func (s *script) alarms(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).AlarmList(ctx)
	if err != nil {
		return "", err
	}
	if len(resp.Alarms) == 0 {
		return "none", nil
	}
	if err := s.learnIDs(a); err != nil {
		return "", err
	}
	var out []string
	for _, alarm := range resp.Alarms {
		out = append(out, s.ids[alarm.MemberID]+" "+alarm.Alarm.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n"), nil
}

func (s *script) disarm(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).AlarmList(ctx)
	if err != nil {
		return "", err
	}
	for _, alarm := range resp.Alarms {
		if _, err := s.client(a).AlarmDisarm(ctx, (*clientv3.AlarmMember)(alarm)); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d disarmed", len(resp.Alarms)), nil
}

func (s *script) save(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	// A member saves what it has applied itself. It has applied what was written before, through any member, once it has
	// answered a linearizable read.
	if _, err := s.client(a).Get(ctx, "any"); err != nil {
		return "", err
	}
	stream, err := s.client(a).Snapshot(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	path := filepath.Join(s.dir, a.word(0))
	if _, err := snapshot.Save(ctx, snapshot.FromReader(stream), path, snapshot.SaveOptions{}); err != nil {
		return "", err
	}
	info, err := snapshot.Status(ctx, path, snapshot.FileOptions{})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("saved, revision %d", info.Revision), nil
}

func (s *script) restore(a args) (string, error) {
	o := restoreOptions{markCompacted: a.has("mark-compacted")}
	var err1, err2 error
	o.toRevision, err1 = strconv.ParseInt(a.or("to-revision", "0"), 10, 64)
	o.bump, err2 = strconv.ParseInt(a.or("bump", "0"), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	clear(s.watchers)
	if err := s.world.restore(filepath.Join(s.dir, a.word(0)), o); err != nil {
		return "", err
	}
	return strings.Join(s.world.running(), ", ") + " serves", nil
}

func (s *script) pass(a args) (string, error) {
	d, err := time.ParseDuration(a.word(0))
	if err != nil {
		return "", err
	}
	return a.word(0) + " later", s.world.pass(d)
}

// learnIDs notes which member has which ID.
func (s *script) learnIDs(a args) error {
	list, err := s.list(a)
	for _, m := range list {
		s.ids[m.ID] = s.nameOf(m)
	}
	return err
}

func (s *script) list(a args) ([]*pb.Member, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).MemberList(ctx)
	if err != nil {
		return nil, err
	}
	return resp.Members, nil
}

// write puts large values.
func (s *script) write(a args) (string, error) {
	size, err := parseSize(a.or("size", "64KB"))
	if err != nil {
		return "", err
	}
	a.words = append(a.words, strings.Repeat("v", int(size)))
	return s.put(a)
}

// compactNow compacts at the present.
func (s *script) compactNow(a args) (string, error) {
	ctx, cancel := s.context()
	defer cancel()
	resp, err := s.client(a).Get(ctx, "any")
	if err != nil {
		return "", err
	}
	return s.compact(args{words: []string{strconv.FormatInt(resp.Header.Revision, 10)}, named: a.named})
}
