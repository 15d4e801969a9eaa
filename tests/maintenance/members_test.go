package maintenance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// nameOf is the script's name of a member, which one that was never started does not tell itself.
func (s *script) nameOf(m *pb.Member) string {
	for i := range s.added + 1 {
		name := fmt.Sprintf("m%d", i)
		if slices.Contains(m.PeerURLs, s.world.peerURL(name)) {
			return name
		}
	}
	return m.Name
}

func (s *script) idOf(a args, name string) (uint64, error) {
	list, err := s.list(a)
	if err != nil {
		return 0, err
	}
	for _, m := range list {
		if s.nameOf(m) == name {
			return m.ID, nil
		}
	}
	return 0, fmt.Errorf("%s is no member", name)
}

func (s *script) members(a args) (string, error) {
	list, err := s.list(a)
	if err != nil {
		return "", err
	}
	var out []string
	for _, m := range list {
		kind := "voter"
		if m.IsLearner {
			kind = "learner"
		}
		if m.Name == "" {
			kind += ", never started"
		}
		out = append(out, s.nameOf(m)+" "+kind)
	}
	slices.Sort(out)
	return strings.Join(out, "\n"), nil
}

// healthyAfter is a little more than the time after which connected members count as healthy: 5 s.
const healthyAfter = 7 * time.Second

// whenHealthy repeats a change that is refused because members have not been connected for long enough.
func (s *script) whenHealthy(do func() error) error {
	for start := time.Now(); ; {
		err := do()
		if !errors.Is(err, rpctypes.ErrUnhealthy) || time.Since(start) > healthyAfter {
			return err
		}
		if err := s.world.pass(100 * time.Millisecond); err != nil {
			return err
		}
	}
}

func (s *script) add(a args) (string, error) {
	name := a.word(0)
	s.world.prepare(name)
	s.added++
	err := s.whenHealthy(func() error {
		ctx, cancel := s.context()
		defer cancel()
		add := s.client(a).MemberAdd
		if a.has("learner") {
			add = s.client(a).MemberAddAsLearner
		}
		_, err := add(ctx, []string{s.world.peerURL(name)})
		return err
	})
	if err != nil {
		s.world.gone(name)
		return "", err
	}
	if a.has("not-started") {
		return name + " added", nil
	}
	s.world.launch(name)
	return name + " added and serves", nil
}

func (s *script) promote(a args) (string, error) {
	id, err := s.idOf(a, a.word(0))
	if err != nil {
		return "", err
	}
	err = s.whenHealthy(func() error {
		ctx, cancel := s.context()
		defer cancel()
		_, err := s.client(a).MemberPromote(ctx, id)
		return err
	})
	if err != nil {
		return "", err
	}
	return a.word(0) + " votes", nil
}

func (s *script) remove(a args) (string, error) {
	if err := s.learnIDs(a); err != nil {
		return "", err
	}
	id, err := s.idOf(a, a.word(0))
	if err != nil {
		return "", err
	}
	on := s.otherThan(a.word(0))
	err = s.whenHealthy(func() error {
		ctx, cancel := s.context()
		defer cancel()
		_, err := s.world.client(a.on(on)).MemberRemove(ctx, id)
		return err
	})
	if err != nil {
		return "", err
	}
	s.world.gone(a.word(0))
	return a.word(0) + " is gone", nil
}

func (s *script) otherThan(member string) string {
	for _, m := range s.world.running() {
		if m != member {
			return m
		}
	}
	return member
}

// moveLeader asks whoever leads, and says who leads then.
func (s *script) moveLeader(a args) (string, error) {
	target, err := s.idOf(a, a.word(0))
	if err != nil {
		return "", err
	}
	leader := s.leader()
	if leader == "" {
		return "", errors.New("nobody leads")
	}
	if leader != a.word(0) {
		ctx, cancel := s.context()
		defer cancel()
		if _, err := s.world.client(leader).MoveLeader(ctx, target); err != nil {
			return "", err
		}
	}
	for start := time.Now(); time.Since(start) < patience; {
		if s.leader() == a.word(0) {
			return a.word(0) + " leads", nil
		}
		if err := s.world.pass(50 * time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", errors.New("it does not lead")
}

// leader is the member that all who run take for the leader, empty for none.
func (s *script) leader() string {
	leader := ""
	for _, m := range s.world.running() {
		resp, err := s.status(m)
		if err != nil {
			return ""
		}
		if resp.Leader == resp.Header.MemberId {
			leader = m
		}
	}
	return leader
}

func (s *script) status(member string) (*clientv3.StatusResponse, error) {
	ctx, cancel := s.context()
	defer cancel()
	return s.world.client(member).Status(ctx, s.world.clientURL(member))
}

// awaitLeader waits until those who run follow one of them.
func (s *script) awaitLeader(args) (string, error) {
	for start := time.Now(); time.Since(start) < patience; {
		leaders := map[uint64]bool{}
		for _, m := range s.world.running() {
			if resp, err := s.status(m); err == nil {
				leaders[resp.Leader] = true
			}
		}
		if len(leaders) == 1 && !leaders[0] && s.leader() != "" {
			return "somebody else leads", nil
		}
		if err := s.world.pass(50 * time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", errors.New("nobody leads")
}
