package command

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	perfDuration = 60 * time.Second
	perfPrefix   = "/etcdctl-check-perf/"
	scalePrefix  = "/etcdctl-check-datascale/"

	loadKeyBytes   = 256
	loadValueBytes = 1024

	// Limits of a pass. Source: etcdctl.
	perfEnough  = 0.9 // of the rate asked for
	perfSlowest = 500 * time.Millisecond
	perfStddev  = 100 * time.Millisecond
	perfErrors  = 10
)

// workload is how much a check writes: with how many clients, how many pairs a second for perf, and all in all for
// datascale.
type workload struct{ perfRate, perfClients, scalePairs, scaleClients int }

// workloadOf returns a model by its name, short or long.
func workloadOf(name string) (workload, error) {
	switch name {
	case "s", "small":
		return workload{150, 50, 10_000, 50}, nil
	case "m", "medium":
		return workload{1000, 200, 100_000, 200}, nil
	case "l", "large":
		return workload{8000, 500, 1_000_000, 500}, nil
	case "xl", "xLarge":
		return workload{15000, 1000, 3_000_000, 1000}, nil
	}
	return workload{}, fail(exitBadFeature, fmt.Errorf("unknown load option %s", name))
}

type loadFlags struct {
	load, prefix            string
	autoCompact, autoDefrag bool
}

func (f *loadFlags) command(name, short, prefix string) *cobra.Command {
	cmd := &cobra.Command{Use: name + " [options]", Short: short}
	cmd.Flags().StringVar(&f.load, "load", "s", "how much to write: s, m, l or xl")
	cmd.Flags().StringVar(&f.prefix, "prefix", prefix, "prefix of the keys to write")
	cmd.Flags().BoolVar(&f.autoCompact, "auto-compact", false, "compact the history afterwards")
	cmd.Flags().BoolVar(&f.autoDefrag, "auto-defrag", false, "defragment the members afterwards")
	return cmd
}

func newCheckPerf(a *app) *cobra.Command {
	var f loadFlags
	cmd := f.command("perf", "Writes for a minute and tells whether the cluster keeps up", perfPrefix)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		load, err := workloadOf(f.load)
		if err != nil {
			return err
		}
		client, _, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		if err := f.unused(cmd.Context(), client, "'etcdctl del --prefix %[1]s'"); err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		timed, cancel := context.WithTimeout(ctx, perfDuration)
		defer cancel()
		shown := a.startProgress("writing", true)
		m := a.write(timed, cmd, load.perfClients, math.MaxInt, load.perfRate, f.prefix, func(_, elapsed int64) {
			shown.set(elapsed, int64(perfDuration/time.Second))
		})
		shown.end()
		if m.failed != nil {
			return m.failed
		}
		if err := f.cleanUp(ctx, a, client); err != nil {
			return err
		}
		if !a.judge(m, load.perfRate) {
			return failed(exitError)
		}
		return nil
	}
	return cmd
}

// judge prints what was measured, and whether it is good enough.
func (a *app) judge(m *measured, rate int) bool {
	pass := true
	line := func(good bool, whenGood, whenNot string, value any) {
		pass = pass && good
		if good {
			fmt.Fprintf(a.out, "PASS: "+whenGood+"\n", value)
		} else {
			fmt.Fprintf(a.out, whenNot+"\n", value)
		}
	}
	throughput := float64(m.count)/m.took.Seconds() + 1
	line(throughput > perfEnough*float64(rate), "Throughput is %d writes/s", "FAIL: Throughput too low: %d writes/s", int(throughput))
	line(m.slowest <= perfSlowest, "Slowest request took %fs", "Slowest request took too long: %fs", m.slowest.Seconds())
	line(m.stddev() <= perfStddev.Seconds(), "Stddev is %fs", "Stddev too high: %fs", m.stddev())
	if m.errors > perfErrors {
		fmt.Fprintln(a.out, "FAIL: too many errors")
		for text, n := range m.texts {
			fmt.Fprintf(a.out, "FAIL: ERROR(%v) -> %d\n", text, n)
		}
		pass = false
	}
	if pass {
		fmt.Fprintln(a.out, "PASS")
	} else {
		fmt.Fprintln(a.out, "FAIL")
	}
	return pass
}

func newCheckDatascale(a *app) *cobra.Command {
	var f loadFlags
	cmd := f.command("datascale", "Writes many keys and tells how much memory the member needs for them", scalePrefix)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		load, err := workloadOf(f.load)
		if err != nil {
			return err
		}
		client, _, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		if err := f.unused(cmd.Context(), client, "etcdctl del --prefix %[1]s"); err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		before, err := a.residentBytes(ctx, client.Endpoints()[0])
		if err != nil {
			return fmt.Errorf("failed to read process_resident_memory_bytes: %w", err)
		}
		fmt.Fprintf(a.out, "Start data scale check for work load [%d key-value pairs, %d bytes per key-value, %d concurrent clients].\n",
			load.scalePairs, loadValueBytes, load.scaleClients)
		shown := a.startProgress("writing", true)
		m := a.write(ctx, cmd, load.scaleClients, load.scalePairs, 0, f.prefix, func(n, _ int64) { shown.set(n, int64(load.scalePairs)) })
		shown.end()
		if m.failed != nil {
			return m.failed
		}
		after, err := a.residentBytes(ctx, client.Endpoints()[0])
		if err != nil {
			return fmt.Errorf("failed to read process_resident_memory_bytes: %w", err)
		}
		if err := f.cleanUp(ctx, a, client); err != nil {
			return err
		}
		if m.errors > 0 {
			fmt.Fprintln(a.out, "FAIL: too many errors")
			for text, n := range m.texts {
				fmt.Fprintf(a.out, "FAIL: ERROR(%v) -> %d\n", text, n)
			}
			return failed(exitError)
		}
		fmt.Fprintf(a.out, "PASS: Approximate system memory used : %v MB.\n", strconv.FormatFloat((after-before)/1024/1024, 'f', 2, 64))
		return nil
	}
	return cmd
}

// unused makes sure that the check will not overwrite, and then delete, somebody's keys.
func (f *loadFlags) unused(ctx context.Context, client *clientv3.Client, remedy string) error {
	resp, err := client.Get(ctx, f.prefix, clientv3.WithPrefix(), clientv3.WithLimit(1))
	if err != nil {
		return err
	}
	if len(resp.Kvs) > 0 {
		return fail(exitBadInput, fmt.Errorf("prefix %[1]q has keys. Delete with "+remedy+" first", f.prefix))
	}
	return nil
}

// cleanUp deletes what the check has written, and what is left of it if that is asked for.
func (f *loadFlags) cleanUp(ctx context.Context, a *app, client *clientv3.Client) error {
	deleted, err := client.Delete(ctx, f.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	rev := deleted.Header.Revision
	if f.autoCompact {
		fmt.Fprintf(a.out, "Compacting with revision %d\n", rev)
		if _, err := client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "Compacted with revision %d\n", rev)
	}
	if !f.autoDefrag {
		return nil
	}
	for _, endpoint := range client.Endpoints() {
		fmt.Fprintf(a.out, "Defragmenting %q\n", endpoint)
		if _, err := client.Defragment(ctx, endpoint); err != nil {
			return err
		}
		fmt.Fprintf(a.out, "Defragmented %q\n", endpoint)
	}
	return nil
}

// measured is how the writes went.
type measured struct {
	mu         sync.Mutex
	count      int
	errors     int
	texts      map[string]int
	slowest    time.Duration
	sum, sumSq float64 // of the seconds that writes took
	took       time.Duration
	failed     error // why nothing could be written at all
}

func (m *measured) stddev() float64 {
	if m.count == 0 {
		return 0
	}
	mean := m.sum / float64(m.count)
	return math.Sqrt(max(0, m.sumSq/float64(m.count)-mean*mean))
}

func (m *measured) add(took time.Duration, err error) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.errors++
		m.texts[err.Error()]++
		return int64(m.count)
	}
	m.count++
	m.slowest = max(m.slowest, took)
	m.sum += took.Seconds()
	m.sumSq += took.Seconds() * took.Seconds()
	return int64(m.count)
}

// write puts so many pairs from as many clients as are asked for, at most rate a second (0: as fast as they go), or until
// ctx ends. Every client has a connection of its own. progress gets the pairs and the seconds so far.
func (a *app) write(ctx context.Context, cmd *cobra.Command, clients, pairs, rate int, prefix string, progress func(n, seconds int64)) *measured {
	m := &measured{texts: map[string]int{}}
	pool := make([]*clientv3.Client, clients)
	for i := range pool {
		client, err := a.clientFor(cmd, a.opts.endpoints)
		if err != nil {
			m.failed = err
			return m
		}
		defer closeClient(client)
		pool[i] = client
	}
	keys := make(chan string)
	var wait sync.WaitGroup
	value := string(make([]byte, loadValueBytes))
	start := time.Now()
	for _, client := range pool {
		wait.Go(func() {
			for key := range keys {
				begun := time.Now()
				ctx, cancel := a.timeout(cmd) // not the check's own, which ends in the middle of writes
				_, err := client.Put(ctx, key, value)
				cancel()
				progress(m.add(time.Since(begun), err), int64(time.Since(start)/time.Second))
			}
		})
	}
	offer(ctx, keys, pairs, rate, prefix, start)
	close(keys)
	wait.Wait()
	m.took = time.Since(start)
	return m
}

// offer hands out random keys, never more of them than the rate allows since start.
func offer(ctx context.Context, keys chan<- string, pairs, rate int, prefix string, start time.Time) {
	random := make([]byte, loadKeyBytes)
	for i := range pairs {
		if rate > 0 {
			due := time.NewTimer(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
			select {
			case <-due.C:
			case <-ctx.Done():
				due.Stop()
				return
			}
		}
		_, _ = rand.Read(random) // never fails
		select {
		case keys <- prefix + string(random):
		case <-ctx.Done():
			return
		}
	}
}

// residentBytes reads from a member's metrics how much memory its process has.
func (a *app) residentBytes(ctx context.Context, endpoint string) (float64, error) {
	spec := &clientv3.ConfigSpec{Endpoints: []string{endpoint}, Secure: &clientv3.SecureConfig{
		Cert: a.opts.cert, Key: a.opts.key, Cacert: a.opts.cacert,
		InsecureTransport: a.opts.insecureTransport, InsecureSkipVerify: a.opts.insecureSkipVerify,
	}}
	cfg, err := clientv3.NewClientConfig(spec, a.logger())
	if err != nil {
		return 0, err
	}
	url := endpoint
	if !strings.Contains(url, "://") {
		if url = "http://" + endpoint; cfg.TLS != nil {
			url = "https://" + endpoint
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{TLSClientConfig: cfg.TLS}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if value, ok := bytes.CutPrefix(lines.Bytes(), []byte("process_resident_memory_bytes ")); ok {
			return strconv.ParseFloat(string(value), 64)
		}
	}
	return 0, errors.Join(errors.New("no such metric at "+url), lines.Err())
}
