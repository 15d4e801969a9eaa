package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// cluster is one or more server processes on loopback ports.
type cluster struct {
	server    contender
	dir       string // data directories are m0, m1, ... in it
	endpoints []string
	peers     []string
	processes []*exec.Cmd
}

const startDeadline = 5 * time.Minute // a restart with a million keys is part of what is measured

// newCluster picks ports; start runs the processes.
func newCluster(server contender, dir string, members int) (*cluster, error) {
	c := &cluster{server: server, dir: dir}
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for i := range 2 * members {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
		if i < members {
			c.endpoints = append(c.endpoints, "http://"+l.Addr().String())
		} else {
			c.peers = append(c.peers, "http://"+l.Addr().String())
		}
	}
	return c, nil
}

// start runs the processes on whatever is in the data directories, without
// waiting for them.
func (c *cluster) start() error {
	var members []string
	for i, peer := range c.peers {
		members = append(members, fmt.Sprintf("m%d=%s", i, peer))
	}
	for i := range c.endpoints {
		name := fmt.Sprintf("m%d", i)
		args := append(c.server.command[1:len(c.server.command):len(c.server.command)],
			"--name", name, "--data-dir", filepath.Join(c.dir, name),
			"--listen-client-urls", c.endpoints[i], "--advertise-client-urls", c.endpoints[i],
			"--listen-peer-urls", c.peers[i], "--initial-advertise-peer-urls", c.peers[i],
			"--initial-cluster", strings.Join(members, ","), "--initial-cluster-state", "new",
			"--quota-backend-bytes", strconv.FormatInt(32<<30, 10), "--log-level", "error")
		log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		cmd := exec.Command(c.server.command[0], args...)
		cmd.Stdout, cmd.Stderr = log, log
		// A bench that dies must not leave servers behind.
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err = cmd.Start()
		log.Close()
		if err != nil {
			return err
		}
		c.processes = append(c.processes, cmd)
	}
	return nil
}

// stop ends the processes as an operator would.
func (c *cluster) stop() {
	for _, p := range c.processes {
		_ = p.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range c.processes {
		killer := time.AfterFunc(30*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait()
		killer.Stop()
	}
	c.processes = nil
}

// firstRead waits until a linearizable read succeeds through every member and
// returns when that was. It connects anew each time: a client that failed once
// waits longer than the server needs.
func (c *cluster) firstRead(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	for _, endpoint := range c.endpoints {
		for {
			err := readOnce(ctx, endpoint)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return time.Time{}, fmt.Errorf("no read from %s: %w\n%s", endpoint, err, c.logTail())
			}
			pause(ctx, 2*time.Millisecond)
		}
	}
	return time.Now(), nil
}

func readOnce(ctx context.Context, endpoint string) error {
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(endpoint, "http://"), time.Second)
	if err != nil {
		return err // cheaper to find out than with a client
	}
	conn.Close()
	client, err := dial(endpoint)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = client.Get(ctx, "first")
	return err
}

// logTail returns the end of the servers' logs, for error messages.
func (c *cluster) logTail() string {
	var tail bytes.Buffer
	for i := range c.endpoints {
		log, _ := os.ReadFile(filepath.Join(c.dir, fmt.Sprintf("m%d.log", i)))
		tail.Write(log[max(0, len(log)-2000):])
	}
	return tail.String()
}

// startFresh starts a cluster in a new directory and waits for it.
func startFresh(ctx context.Context, server contender, dir string, members int) (*cluster, error) {
	dir, err := os.MkdirTemp(dir, server.name)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(server, dir, members)
	if err != nil {
		return nil, err
	}
	if err = c.start(); err == nil {
		_, err = c.firstRead(ctx)
	}
	if err != nil {
		c.remove()
		return nil, err
	}
	return c, nil
}

// remove stops the processes and deletes their data.
func (c *cluster) remove() {
	c.stop()
	os.RemoveAll(c.dir)
}

func dial(endpoints ...string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
}

// dialMany returns n connections, spread over the endpoints.
func dialMany(endpoints []string, n int) (clients []*clientv3.Client, close func(), err error) {
	close = func() {
		for _, client := range clients {
			client.Close()
		}
	}
	for i := range n {
		client, err := dial(endpoints[i%len(endpoints)])
		if err != nil {
			close()
			return nil, nil, err
		}
		clients = append(clients, client)
	}
	return clients, close, nil
}

// cpuTime is what all processes have used so far, user and system.
func (c *cluster) cpuTime() (time.Duration, error) {
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux
	var ticks int64
	for _, p := range c.processes {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			return 0, err
		}
		// The second field is the name in parentheses and may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 13 {
			return 0, errors.New("/proc/PID/stat is not as expected")
		}
		for _, field := range fields[11:13] { // utime, stime
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// memory is what all processes have resident: all of it, and the part that is
// not mapped from files. The rest is page cache that the kernel takes back.
func (c *cluster) memory() (resident, anonymous int64, err error) {
	for _, p := range c.processes {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
		if err != nil {
			return 0, 0, err
		}
		for _, line := range strings.Split(string(status), "\n") {
			name, value, _ := strings.Cut(line, ":")
			kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			switch name {
			case "VmRSS":
				resident += kilobytes << 10
			case "RssAnon":
				anonymous += kilobytes << 10
			}
		}
	}
	return resident, anonymous, nil
}

// pause waits, or less if ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
