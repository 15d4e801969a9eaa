package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

// untilSignal returns a context that ends with a signal to stop: what is held is then given back.
func untilSignal(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
}

// endSession revokes the lease; where that fails, it ends by itself.
func endSession(session *concurrency.Session) { _ = session.Close() }

func newLock(a *app) *cobra.Command {
	var ttl int
	cmd := &cobra.Command{
		Use:   "lock <lockname> [exec-command arg1 arg2 ...]",
		Short: "Acquires a lock and holds it, while a command runs or until interrupted",
		Long: `Acquires a lock and holds it until interrupted, or as long as the command runs,
which finds the lock's key and revision in ETCD_LOCK_KEY and ETCD_LOCK_REV. The
exit code is then the command's. A command with flags goes after --.`,
	}
	cmd.Flags().IntVar(&ttl, "ttl", 10, "seconds after which the lock is free when its holder has died")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return badArgs("lock takes a lock name argument and an optional command to execute")
		}
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		session, err := concurrency.NewSession(client, concurrency.WithTTL(ttl))
		if err != nil {
			return err
		}
		defer endSession(session)
		ctx, stop := untilSignal(cmd)
		defer stop()
		mutex := concurrency.NewMutex(session, args[0])
		if err := mutex.Lock(ctx); err != nil {
			return err
		}
		if len(args) > 1 {
			return errors.Join(a.runLocked(ctx, args[1:], mutex), mutex.Unlock(cmd.Context()))
		}
		return a.hold(ctx, out, client, session, mutex.Key(), func() error { return mutex.Unlock(cmd.Context()) })
	}
	return cmd
}

// hold prints the key that stands for what is held, and gives it back at the end.
func (a *app) hold(ctx context.Context, out printer.Printer, client *clientv3.Client, session *concurrency.Session, key string,
	release func() error,
) error {
	resp, err := client.Get(ctx, key)
	if err == nil && len(resp.Kvs) == 0 {
		err = errors.New("lock lost on init")
	}
	if err == nil {
		err = out.Print(printer.Get{Response: resp})
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return release()
	case <-session.Done():
		return errors.New("session expired")
	}
}

// runLocked runs a command and returns how it ended.
func (a *app) runLocked(ctx context.Context, command []string, mutex *concurrency.Mutex) error {
	run := exec.CommandContext(ctx, command[0], command[1:]...)
	run.Cancel = func() error { return run.Process.Signal(os.Interrupt) }
	run.Env = append(os.Environ(), "ETCD_LOCK_KEY="+mutex.Key(), fmt.Sprintf("ETCD_LOCK_REV=%d", mutex.Header().Revision))
	run.Stdout, run.Stderr = a.out, a.err
	err := run.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return fail(exit.ExitCode(), err)
	}
	return err
}

func newElect(a *app) *cobra.Command {
	var listen bool
	cmd := &cobra.Command{
		Use:   "elect <election-name> [proposal]",
		Short: "Takes part in an election and leads until interrupted, or observes it",
	}
	cmd.Flags().BoolVarP(&listen, "listen", "l", false, "observe who leads")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) != 1 && len(args) != 2:
			return badArgs("elect takes one election name argument and an optional proposal argument")
		case listen && len(args) == 2:
			return badArgs("proposal given but -l is set")
		case !listen && len(args) == 1:
			return badArgs("no proposal argument but -l not set")
		}
		client, out, err := a.connect(cmd)
		if err != nil {
			return err
		}
		defer closeClient(client)
		ctx, stop := untilSignal(cmd)
		defer stop()
		session, err := concurrency.NewSession(client)
		if err != nil {
			return err
		}
		election := concurrency.NewElection(session, args[0])
		defer endSession(session)
		if listen {
			return observe(ctx, out, election)
		}
		if err := election.Campaign(ctx, args[1]); err != nil {
			return err
		}
		return a.hold(ctx, out, client, session, election.Key(), func() error { return election.Resign(cmd.Context()) })
	}
	return cmd
}

func observe(ctx context.Context, out printer.Printer, election *concurrency.Election) error {
	for resp := range election.Observe(ctx) {
		if err := out.Print(printer.Get{Response: resp}); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("elect: observer lost")
}
