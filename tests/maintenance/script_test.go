package maintenance

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
)

// patience bounds every request and every `eventually`, in the world's time.
const patience = 30 * time.Second

// world is a cluster that a script runs on. Members are counted from 0 and named m0, m1 and so on.
type world interface {
	// name is how the world is called in a script that differs.
	name() string
	// start founds a cluster; dirs, if not nil, are data directories to start on.
	start(spec spec)
	// restore stops the cluster and starts one member on what restoring the file gives.
	restore(file string, o restoreOptions) error
	client(member string) *clientv3.Client
	clientURL(member string) string
	peerURL(member string) string
	// running are the names of the members that run.
	running() []string
	stop(member string)
	kill(member string)
	restart(member string)
	// prepare makes a member that is to be added; launch starts it.
	prepare(member string)
	launch(member string)
	// gone waits until a member that was removed has stopped.
	gone(member string)
	// pass lets time pass.
	pass(d time.Duration) error
}

// spec says how a cluster is founded.
type spec struct {
	members   int
	quota     map[string]int64 // by member
	retention time.Duration
	heartbeat time.Duration
}

type restoreOptions struct {
	toRevision, bump int64
	markCompacted    bool
}

// script is one script that is being run.
type script struct {
	t     *testing.T
	world world
	dir   string
	// names that the script gave.
	leases   map[string]clientv3.LeaseID
	watchers map[string]*watcher
	// members that were removed, whose IDs the cluster may still tell.
	ids   map[uint64]string
	added int
}

// args are the arguments of one command.
type args struct {
	words []string
	named map[string]string
}

func (a args) word(i int) string         { return a.words[i] }
func (a args) has(name string) bool      { _, ok := a.named[name]; return ok }
func (a args) on(fallback string) string { return a.or("on", fallback) }

func (a args) or(name, fallback string) string {
	if v, ok := a.named[name]; ok {
		return v
	}
	return fallback
}

// command is one verb of the language.
type command struct {
	// usage is the words it takes, and the names of its options in brackets; those with = take a value.
	usage string
	run   func(*script, args) (string, error)
}

// everywhere are the options that every command takes.
const everywhere = "[differs] [eventually] [upkeep-only] [any-revision]"

// parse checks a line against the command's usage.
func (c command) parse(line []datadriven.CmdArg) (args, error) {
	a := args{named: map[string]string{}}
	words, options := 0, map[string]bool{} // the value tells whether the option takes one
	for _, field := range strings.Fields(c.usage + " " + everywhere) {
		if option, ok := strings.CutPrefix(field, "["); ok {
			name, takesValue := strings.CutSuffix(strings.TrimSuffix(option, "]"), "=")
			options[name] = takesValue
		} else {
			words++
		}
	}
	for _, arg := range line {
		takesValue, known := options[arg.Key]
		switch {
		case len(arg.Vals) == 0 && known && !takesValue:
			a.named[arg.Key] = ""
		case len(arg.Vals) == 0 && len(a.words) < words:
			a.words = append(a.words, arg.Key)
		case len(arg.Vals) == 1 && known && takesValue:
			a.named[arg.Key] = arg.Vals[0]
		default:
			return a, fmt.Errorf("%q is not expected here", arg.String())
		}
	}
	if len(a.words) < words {
		return a, fmt.Errorf("%d words are given and %d expected", len(a.words), words)
	}
	return a, nil
}

// run runs the script at path.
func run(t *testing.T, path string, w world) {
	s := &script{
		t: t, world: w, dir: t.TempDir(), leases: map[string]clientv3.LeaseID{}, watchers: map[string]*watcher{},
		ids: map[uint64]string{},
	}
	datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.directive(d) })
}

// check finds the command that a directive asks for, and refuses what is no command.
func (s *script) check(t testing.TB, d *datadriven.TestData) (command, args) {
	t.Helper()
	known := commands()
	c, ok := known[d.Cmd]
	if !ok {
		d.Fatalf(t, "there is no command %q; expected is one of: %s", d.Cmd,
			strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	a, err := c.parse(d.CmdArgs)
	if err != nil {
		d.Fatalf(t, "%s: %v; expected is: %s %s %s", d.Cmd, err, d.Cmd, c.usage, everywhere)
	}
	if (a.has("differs") || a.has("upkeep-only")) && strings.TrimSpace(d.Input) == "" {
		d.Fatalf(t, "%s differs and does not say why: the reason is expected on the next line", d.Cmd)
	}
	return c, a
}

func (s *script) directive(d *datadriven.TestData) string {
	c, a := s.check(s.t, d)
	if a.has("upkeep-only") && s.world.name() != "upkeep" {
		s.t.Skip(strings.TrimSpace(d.Input))
	}
	expected := d.Expected
	if a.has("differs") {
		expected = section(d.Expected, s.world.name())
	}
	got := s.once(c, a)
	if a.has("eventually") {
		for start := time.Now(); got != expected && time.Since(start) < patience; got = s.once(c, a) {
			if err := s.world.pass(100 * time.Millisecond); err != nil {
				d.Fatalf(s.t, "%v", err)
			}
		}
	}
	if !a.has("differs") {
		return got
	}
	return replaceSection(d.Expected, s.world.name(), got)
}

// once runs the command and gives its outcome as text, one line at least.
func (s *script) once(c command, a args) string {
	out, err := c.run(s, a)
	if err != nil {
		out = "error: " + describe(err)
	}
	if a.has("any-revision") {
		out = regexp.MustCompile(`revision \d+`).ReplaceAllString(out, "revision ?")
	}
	return strings.TrimSuffix(out, "\n") + "\n"
}

func describe(err error) string {
	if st, ok := status.FromError(err); ok {
		return st.Message()
	}
	return err.Error()
}

// section returns the lines of one world out of an expectation that differs.
func section(expected, world string) string {
	var b strings.Builder
	for line := range strings.Lines(expected) {
		if own, ok := strings.CutPrefix(line, world+": "); ok {
			b.WriteString(own)
		}
	}
	return b.String()
}

// replaceSection puts the lines of one world in place of those that are there; the worlds keep their order.
func replaceSection(expected, world, got string) string {
	sections := map[string]string{}
	for _, w := range []string{"upkeep", "etcd"} {
		sections[w] = section(expected, w)
	}
	sections[world] = got
	var b strings.Builder
	for _, w := range []string{"upkeep", "etcd"} {
		for line := range strings.Lines(sections[w]) {
			b.WriteString(w + ": " + line)
		}
	}
	if sections["upkeep"] == sections["etcd"] {
		b.WriteString("(these do not differ)\n")
	}
	return b.String()
}

// context bounds one request.
func (s *script) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// parseSize reads "64KB" or "4MB", in units of 1024.
func parseSize(text string) (int64, error) {
	for _, unit := range []struct {
		name  string
		bytes int64
	}{{"MB", 1 << 20}, {"KB", 1 << 10}, {"", 1}} {
		if digits, ok := strings.CutSuffix(text, unit.name); ok {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%q is no size: expected is a number with KB, MB or nothing behind it", text)
			}
			return n * unit.bytes, nil
		}
	}
	panic("unreachable: every text ends with nothing")
}
