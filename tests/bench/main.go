package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// options are the flags.
type options struct {
	servers   [2]contender
	rows      []string
	rounds    int
	duration  time.Duration
	warmup    time.Duration
	members   []int
	clients   []int
	keys      int
	sizeBytes int64
	// inUseBytes of sizeBytes are in use, largeBytes is the size of the store of defrag-large.
	inUseBytes int64
	largeBytes int64
	limit      time.Duration
	etcdutl    string
	revisions  int
	rate       int // requests per second of each kind, open loop
	dir        string
	verbose    bool
}

// contender is one of the two servers.
type contender struct {
	name    string
	command []string
	ours    bool // it knows the flags and the service that are ours
}

var (
	allRows = []string{"put", "get", "restart", "hash", "snapshot", "backup", "compaction", "defrag", "cycle"}
	// moreRows are measured only where they are asked for: they take long.
	moreRows = []string{"defrag-large"}
)

// usage says what the rows are and how long they take, on two cores with an SSD.
const usage = `Measures one server against another on this machine, and prints tables. Each round of
a row takes, for each of the two servers, about:

  put, get      --warmup and --duration, for each number of --members and --clients
  restart       40 s, most of it to write --keys once
  hash          15 s \
  snapshot      15 s |  each at most --limit; before them 60 s
  backup        30 s |  to write a store of --size, and 15 s
  compaction    90 s |  to measure it without maintenance
  defrag        20 s /
  cycle         3 minutes, at most --limit and what comes before
  defrag-large  8 times as long as defrag

Maintenance that takes longer than --limit is broken off and reported without figures.
The store of these rows is of --size with --in-use of it in use, on one member (cycle: on
three). Puts, linearizable gets and serializable gets fall due --rate times a second each,
and are timed from when they were due; a watch's delay is counted from when its put was due.
`

func parseOptions(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	etcd := f.String("etcd", "bin/peer/etcd", "command line of the first server")
	upkeep := f.String("upkeep", "bin/upkeep", "command line of the second server")
	names := f.String("names", "etcd,upkeep", "what the table calls the two")
	rows := f.String("rows", strings.Join(allRows, ","), "rows to measure; there is also "+strings.Join(moreRows, ", "))
	members := f.String("members", "1,3", "cluster sizes of put and get")
	clients := f.String("clients", "1,100,1000", "clients of put and get")
	size := f.String("size", "1GiB", "size of the store that is maintained")
	inUse := f.String("in-use", "300MiB", "how much of it is in use")
	large := f.String("large-size", "8GiB", "size of the store of defrag-large, of which as large a share is in use")
	f.StringVar(&o.etcdutl, "etcdutl", "bin/peer/etcdutl", "what restores the first server's backups to verify them")
	f.DurationVar(&o.limit, "limit", 5*time.Minute, "how long one piece of maintenance may take; one that takes longer is reported without figures")
	f.IntVar(&o.rounds, "rounds", 3, "rounds, of which the table shows the median")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long to measure each of put and get in each round")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "load before the measurement")
	f.IntVar(&o.keys, "keys", 1_000_000, "keys in the store that is restarted")
	f.IntVar(&o.revisions, "revisions", 600_000, "revisions to compact away")
	f.IntVar(&o.rate, "rate", 200, "puts, linearizable gets and serializable gets per second each while maintenance runs")
	f.StringVar(&o.dir, "dir", "", "where to put data (default: the system's temporary directory)")
	f.BoolVar(&o.verbose, "v", false, "print each measurement as it is made")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\nFlags:\n", usage)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	first, second, ok := strings.Cut(*names, ",")
	if !ok {
		return nil, errors.New("--names needs two names")
	}
	o.servers[0] = contender{name: first, command: strings.Fields(*etcd)}
	o.servers[1] = contender{name: second, command: strings.Fields(*upkeep)}
	var err error
	for _, size := range []struct {
		flag, text string
		into       *int64
	}{{"size", *size, &o.sizeBytes}, {"in-use", *inUse, &o.inUseBytes}, {"large-size", *large, &o.largeBytes}} {
		bytes, err := humanize.ParseBytes(size.text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", size.flag, err)
		}
		*size.into = int64(bytes)
	}
	if o.members, err = numbers(*members); err != nil {
		return nil, fmt.Errorf("--members: %w", err)
	}
	if o.clients, err = numbers(*clients); err != nil {
		return nil, fmt.Errorf("--clients: %w", err)
	}
	o.rows = strings.Split(*rows, ",")
	return o, o.validate()
}

func (o *options) validate() error {
	for _, row := range o.rows {
		if !slices.Contains(allRows, row) && !slices.Contains(moreRows, row) {
			return fmt.Errorf("--rows: no row %q, there are %s", row, strings.Join(slices.Concat(allRows, moreRows), ", "))
		}
	}
	for i, server := range o.servers {
		if len(server.command) == 0 {
			return errors.New("a server needs a command line")
		}
		// A path is looked up from here, not from the directory the server runs in.
		if _, err := os.Stat(server.command[0]); err != nil {
			return fmt.Errorf("server %s: %w", o.servers[i].name, err)
		}
		help, _ := exec.Command(server.command[0], "--help").CombinedOutput() // some end with an error after it
		o.servers[i].ours = strings.Contains(string(help), "--upkeep-defrag")
	}
	if o.rounds < 1 || o.rate < 1 || o.duration <= 0 || o.keys < 1 || o.revisions < 1 || o.limit <= 0 {
		return errors.New("rounds, rate, duration, limit, keys and revisions must be positive")
	}
	if min(o.sizeBytes, o.largeBytes) < 1<<20 || o.inUseBytes < 1 || o.inUseBytes > o.sizeBytes {
		return errors.New("size and large-size must be at least 1MiB, and in-use at most size")
	}
	return nil
}

func numbers(list string) ([]int, error) {
	var out []int
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a positive number", text)
		}
		out = append(out, n)
	}
	return out, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	facts, err := machineFacts(dir)
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, results: newResults()}
	started := time.Now()
	if err := b.all(ctx); err != nil {
		return err
	}
	fmt.Print(b.results.markdown(o))
	fmt.Print(b.results.felt(o))
	for _, note := range b.notes {
		fmt.Println("\n" + note)
	}
	fmt.Printf("\nMedians of %d rounds, the ratio that of the ratios in each round; %s per row and round; took %s.\n\n%s",
		o.rounds, o.duration, time.Since(started).Round(time.Second), facts)
	return nil
}

// bench runs the rows and collects what they measure.
type bench struct {
	*options
	dir     string
	results *results
	notes   []string // what there are no figures for
}

func (b *bench) wants(row string) bool { return slices.Contains(b.rows, row) }

func (b *bench) all(ctx context.Context) error {
	for _, part := range []struct {
		rows []string
		run  func(context.Context) error
	}{
		{[]string{"put", "get"}, b.steady},
		{[]string{"restart"}, b.restart},
		{[]string{"hash", "snapshot", "backup", "compaction", "defrag"}, b.maintenance},
		{[]string{"cycle"}, b.cycle},
		{[]string{"defrag-large"}, b.large},
	} {
		if slices.ContainsFunc(part.rows, b.wants) {
			if err := part.run(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// turns calls do for both servers in every round, in alternating order.
func (b *bench) turns(do func(round int, server contender) error) error {
	for round := range b.rounds {
		for _, server := range b.order(round) {
			if err := do(round, server); err != nil {
				return fmt.Errorf("%s, round %d: %w", server.name, round+1, err)
			}
		}
	}
	return nil
}

// order is who goes first in a round.
func (b *bench) order(round int) []contender {
	return []contender{b.servers[round%2], b.servers[1-round%2]}
}

// note keeps something to be said below the table.
func (b *bench) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
	fmt.Fprintln(os.Stderr, b.notes[len(b.notes)-1])
}

// record keeps a measurement.
func (b *bench) record(server contender, row, metric string, value float64) {
	b.results.add(server.name, row, metric, value)
	if b.verbose {
		fmt.Fprintf(os.Stderr, "%-8s %-32s %-28s %14.3f\n", server.name, row, metric, value)
	}
}
