package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
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
	revisions int
	rate      int // requests per second of each kind, open loop
	dir       string
	verbose   bool
}

// contender is one of the two servers.
type contender struct {
	name    string
	command []string
}

var allRows = []string{"put", "get", "restart", "defrag", "snapshot", "compaction"}

func parseOptions(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	etcd := f.String("etcd", "bin/peer/etcd", "command line of the first server")
	upkeep := f.String("upkeep", "bin/upkeep", "command line of the second server")
	names := f.String("names", "etcd,upkeep", "what the table calls the two")
	rows := f.String("rows", strings.Join(allRows, ","), "rows to measure")
	members := f.String("members", "1,3", "cluster sizes of put and get")
	clients := f.String("clients", "1,100,1000", "clients of put and get")
	size := f.String("size", "1GiB", "size of the store that defrag and snapshot work on")
	f.IntVar(&o.rounds, "rounds", 3, "rounds, of which the table shows the median")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "how long to measure each of put and get in each round")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "load before the measurement")
	f.IntVar(&o.keys, "keys", 1_000_000, "keys in the store that is restarted")
	f.IntVar(&o.revisions, "revisions", 600_000, "revisions to compact away")
	f.IntVar(&o.rate, "rate", 200, "puts, and gets, per second while maintenance runs")
	f.StringVar(&o.dir, "dir", "", "where to put data (default: the system's temporary directory)")
	f.BoolVar(&o.verbose, "v", false, "print each measurement as it is made")
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
	o.servers[0] = contender{first, strings.Fields(*etcd)}
	o.servers[1] = contender{second, strings.Fields(*upkeep)}
	bytes, err := humanize.ParseBytes(*size)
	if err != nil {
		return nil, fmt.Errorf("--size: %w", err)
	}
	o.sizeBytes = int64(bytes)
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
		if !slices.Contains(allRows, row) {
			return fmt.Errorf("--rows: no row %q, there are %s", row, strings.Join(allRows, ", "))
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
	}
	if o.rounds < 1 || o.rate < 1 || o.duration <= 0 || o.keys < 1 || o.revisions < 1 || o.sizeBytes < 1<<20 {
		return errors.New("rounds, rate, duration, keys and revisions must be positive, size at least 1MiB")
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
	fmt.Printf("\nMedians of %d rounds, the ratio that of the ratios in each round; %s per row and round; took %s.\n\n%s",
		o.rounds, o.duration, time.Since(started).Round(time.Second), facts)
	return nil
}

// bench runs the rows and collects what they measure.
type bench struct {
	*options
	dir     string
	results *results
}

func (b *bench) wants(row string) bool { return slices.Contains(b.rows, row) }

func (b *bench) all(ctx context.Context) error {
	for _, part := range []struct {
		rows []string
		run  func(context.Context) error
	}{
		{[]string{"put", "get"}, b.steady},
		{[]string{"restart"}, b.restart},
		{[]string{"defrag", "snapshot", "compaction"}, b.maintenance},
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

// record keeps a measurement.
func (b *bench) record(server contender, row, metric string, value float64) {
	b.results.add(server.name, row, metric, value)
	if b.verbose {
		fmt.Fprintf(os.Stderr, "%-8s %-32s %-28s %14.3f\n", server.name, row, metric, value)
	}
}
