// Package differential sends the same random requests to upkeep and to etcd, started beside it, and compares the
// answers field by field, what watchers hear, and the histories by HashKV at every revision. Each round begins with new
// clusters, of one member or of three, and has a seed of its own.
//
// A failure prints the seed, which UPKEEP_TEST_SEED replays, and the shortest sequence of requests that was found to
// still make a difference: the test plays parts of the sequence again, from scratch, for up to two minutes or as long as
// UPKEEP_TEST_SHRINK says (a duration; 0s to leave it out).
package differential

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/upkeep-kv/upkeep/tests/longrun"
)

// round is one sequence of requests to new clusters.
type round struct {
	setting setting
	steps   int
	user    string // who may ask for everything in the end
	next    func(g *generator, o *officer) step
	after   func(t *testing.T, p *pair) error // once it is over; may be nil
}

// longSteps is the least that the rounds of a test make together in `make test-long`.
const longSteps = 60_000

// leastSteps is how many steps a round has on a machine on which the start alone takes all of the time.
const leastSteps = 300

// run makes rounds until the time is over.
func (r round) run(t *testing.T, length time.Duration, share float64) {
	seed, given := longrun.Seed(t, rand.Uint64())
	least := 0
	if longrun.Asked(t) {
		least = int(longSteps * share)
	}
	outcomes := map[string]int{}
	played, rounds := 0, 0
	for end := time.Now().Add(length); rounds == 0 || !given && (time.Now().Before(end) || played < least); rounds++ {
		until := end
		if least > 0 || given {
			until = time.Now().Add(time.Hour)
		}
		n, err := r.play(t, seed, until, outcomes)
		if err != nil {
			t.Fatal(err)
		}
		played += n
		seed++
	}
	t.Logf("%d steps in %d rounds, the last of seed %d, %d kinds of answers", played, rounds, seed-1, len(outcomes))
	if !given && played < 100 {
		t.Errorf("only %d steps", played)
	}
}

// play makes the round of seed, and shrinks what fails.
func (r round) play(t *testing.T, seed uint64, until time.Time, outcomes map[string]int) (int, error) {
	var steps []step
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), rev: 1, members: r.setting.members,
		leases: []int64{1000, 1001, 1002, 1003, 1004, 1005}}
	o := &officer{generator: g, hash: hashOf(t, "pw1")}
	p := startPair(t, r.setting)
	err := func() error {
		for len(steps) < r.steps && (len(steps) < leastSteps || time.Now().Before(until)) {
			st := r.next(g, o)
			steps = append(steps, st)
			if err := p.play(st); err != nil {
				return err
			}
			g.rev = p.rev
			if len(steps)%200 == 0 {
				if err := p.settle(); err != nil {
					return err
				}
			}
		}
		return r.end(t, p)
	}()
	p.stop()
	for k, v := range p.outcomes {
		outcomes[k] += v
	}
	if err == nil {
		return len(steps), nil
	}
	return len(steps), fmt.Errorf("seed %d: %w%s", seed, err, r.shrunk(t, steps))
}

func (r round) end(t *testing.T, p *pair) error {
	if err := p.finish(r.user); err != nil {
		return err
	}
	if r.after != nil {
		return r.after(t, p)
	}
	return nil
}

// shrunk finds a short part of steps that still fails, and tells how.
func (r round) shrunk(t *testing.T, steps []step) string {
	limit := 2 * time.Minute
	if text := os.Getenv("UPKEEP_TEST_SHRINK"); text != "" {
		var err error
		if limit, err = time.ParseDuration(text); err != nil {
			return fmt.Sprintf("\nUPKEEP_TEST_SHRINK is %q: a duration is expected", text)
		}
	}
	if limit <= 0 {
		return ""
	}
	var last error
	short := shrink(steps, time.Now().Add(limit), func(part []step) bool {
		if err := r.again(t, part); err != nil {
			last = err
			return true
		}
		return false
	})
	if last == nil {
		return "\nno part of the sequence failed when it was played again"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\nshrunk from %d to %d steps, of which this failed:\n%v\nthe steps:", len(steps), len(short), last)
	for i, st := range short {
		fmt.Fprintf(&out, "\n%4d. %v", i+1, st)
	}
	return out.String()
}

// again plays steps from scratch.
func (r round) again(t *testing.T, steps []step) error {
	p := startPair(quiet{t}, r.setting)
	defer p.stop()
	for _, st := range steps {
		if err := p.play(st); err != nil {
			return err
		}
	}
	return r.end(t, p)
}

func hashOf(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(hash)
}

// TestSameAnswersAsEtcd makes requests of all kinds, among them such as must be refused.
func TestSameAnswersAsEtcd(t *testing.T) {
	length := longrun.Length(t, 8*time.Second) / 2
	for _, members := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d", members), func(t *testing.T) {
			r := round{setting: setting{members: members}, steps: 2000, next: (*generator).anything}
			if members > 1 { // a loaded machine must not make either elect a leader anew
				r.setting.flags = []string{"--heartbeat-interval=300", "--election-timeout=3000"}
			}
			r.run(t, length, []float64{0, 0.8, 0, 0.4}[members])
		})
	}
}

// TestSameUsersAsEtcd has several users, some with tokens that have ended, change keys, users and roles at random, and
// compares every answer, and in the end what stands in the buckets.
func TestSameUsersAsEtcd(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("between the members"), 0o600); err != nil {
		t.Fatal(err)
	}
	length := longrun.Length(t, 8*time.Second) / 2
	for _, tokens := range []string{"simple", "jwt,sign-method=HS256,ttl=1h,priv-key=" + secret} {
		kind, _, _ := strings.Cut(tokens, ",")
		t.Run(kind, func(t *testing.T) {
			r := round{
				setting: setting{members: 1, flags: []string{"--auth-token=" + tokens}}, steps: 2000,
				next:  func(_ *generator, o *officer) step { return o.next() },
				after: sameBuckets, user: "root",
			}
			r.run(t, length, 0.4)
		})
	}
}

// sameBuckets compares what stands of users and roles in the database.
func sameBuckets(t *testing.T, p *pair) error {
	var lists [][]string
	for _, s := range []*side{p.ours, p.theirs} {
		s.members[0].Stop()
		lists = append(lists, users(t, s.members[0]))
	}
	if !slices.Equal(lists[0], lists[1]) {
		return fmt.Errorf("the buckets differ\nupkeep: %q\netcd:   %q", lists[0], lists[1])
	}
	return nil
}
