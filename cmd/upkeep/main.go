package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/upkeep-kv/upkeep/cmd/upkeep/local"
	"github.com/upkeep-kv/upkeep/server/config"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "local" {
		os.Exit(local.Main(os.Args[2:]))
	}
	p := program{start: startServer, notify: notifySystemd, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.run(os.Args[1:], os.Environ()))
}

// member is a running server, as this program needs it.
type member interface {
	Ready() <-chan struct{} // closed once clients are served
	Done() <-chan struct{}  // closed once it has stopped, by Close or by itself
	Err() error             // why it stopped by itself; valid after Done
	Close() error
}

// program is main with its surroundings handed in.
type program struct {
	start          func(context.Context, *config.Config, *zap.Logger) (member, error)
	notify         func(state string) // tells the service manager
	stdout, stderr io.Writer
}

// run serves until it is told to stop and returns the exit code.
func (p program) run(args, environ []string) int {
	cfg, err := config.Parse(args, environ)
	if err != nil {
		p.explain(err)
		return config.ExitCode(err)
	}
	logger, closeLogs, err := cfg.Log.Build()
	if err != nil {
		p.explain(err)
		return 1
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	received, err := p.serve(cfg, logger, signals)
	if err != nil {
		logger.Error("upkeep failed", zap.Error(err))
	}
	if closeErr := closeLogs(); closeErr != nil {
		fmt.Fprintf(p.stderr, "upkeep: closing the log: %v\n", closeErr)
	}
	switch {
	case received != nil:
		return raise(received)
	case err != nil:
		return 1
	default:
		return 0
	}
}

// explain writes why the member is not started, or what was asked for instead.
func (p program) explain(err error) {
	var usage *config.UsageError
	switch {
	case errors.Is(err, config.ErrHelp):
		config.WriteUsage(p.stdout)
	case errors.Is(err, config.ErrVersion):
		writeVersion(p.stdout)
	case errors.As(err, &usage):
		fmt.Fprintln(p.stderr, err)
		config.WriteUsageHead(p.stderr)
	default:
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(p.stderr, "upkeep: %s\n", strings.TrimSpace(line))
		}
	}
}

// serve runs the member until a signal comes or it stops by itself, and returns the signal, if that was it.
func (p program) serve(cfg *config.Config, logger *zap.Logger, signals <-chan os.Signal) (os.Signal, error) {
	announce(cfg, logger)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type started struct {
		member member
		err    error
	}
	starting := make(chan started, 1)
	go func() {
		m, err := p.start(ctx, cfg, logger)
		starting <- started{m, err}
	}()
	var received os.Signal
	var s started
	select {
	case s = <-starting:
	case received = <-signals:
		logger.Info("received signal while starting; shutting down", zap.Stringer("signal", received))
		cancel()
		s = <-starting
	}
	switch {
	case s.err != nil && received != nil:
		return received, nil // the start was cut short, as asked
	case s.err != nil:
		return nil, s.err
	case received != nil:
		return received, s.member.Close()
	}
	return p.watch(s.member, logger, signals)
}

func (p program) watch(m member, logger *zap.Logger, signals <-chan os.Signal) (os.Signal, error) {
	ready := m.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			p.notify("READY=1")
		case <-m.Done():
			return nil, errors.Join(m.Err(), m.Close())
		case received := <-signals:
			logger.Info("received signal; shutting down", zap.Stringer("signal", received))
			signal.Reset() // a second signal ends the program at once
			p.notify("STOPPING=1")
			err := m.Close()
			if err == nil {
				logger.Info("closed upkeep server")
			}
			return received, err
		}
	}
}

// announce logs what is about to be started.
func announce(cfg *config.Config, logger *zap.Logger) {
	if cfg.File != "" {
		logger.Info("loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
			zap.String("path", cfg.File))
	}
	for _, w := range cfg.Warnings {
		w.Log(logger)
	}
	dir := cfg.DataDir
	if absolute, err := filepath.Abs(dir); err == nil {
		dir = absolute
	}
	v := versions()
	logger.Info("starting an upkeep server",
		zap.String("upkeep-version", v.program), zap.String("etcd-version", v.api), zap.String("git-sha", v.gitSHA), zap.String("go-version", v.goVersion),
		zap.String("name", cfg.Name), zap.String("data-dir", dir), zap.String("wal-dir", cfg.WALDir),
		zap.Strings("listen-peer-urls", config.URLStrings(cfg.ListenPeerURLs)),
		zap.Strings("listen-client-urls", config.URLStrings(cfg.ListenClientURLs)),
		zap.Strings("initial-advertise-peer-urls", config.URLStrings(cfg.AdvertisePeerURLs)),
		zap.Strings("advertise-client-urls", config.URLStrings(cfg.AdvertiseClientURLs)),
		zap.String("initial-cluster", config.FormatInitialCluster(cfg.InitialCluster)),
		zap.String("initial-cluster-state", string(cfg.InitialClusterState)),
		zap.Duration("heartbeat-interval", cfg.HeartbeatInterval), zap.Duration("election-timeout", cfg.ElectionTimeout),
		zap.Int64("quota-backend-bytes", cfg.QuotaBackendBytes),
		zap.String("auto-compaction-mode", cfg.AutoCompaction.Mode), zap.Duration("auto-compaction-period", cfg.AutoCompaction.Period),
		zap.Int64("auto-compaction-revisions", cfg.AutoCompaction.Revisions),
	)
}

// raise ends the program by the signal, as if it had not been caught. It returns only where that cannot work: the
// first process of a container ignores signals it does not catch.
func raise(received os.Signal) int {
	number, ok := received.(syscall.Signal)
	if !ok {
		return 1
	}
	if os.Getpid() == 1 {
		return 0
	}
	signal.Reset(number)
	if err := syscall.Kill(os.Getpid(), number); err == nil {
		time.Sleep(time.Second) // the signal arrives meanwhile
	}
	return 128 + int(number)
}
