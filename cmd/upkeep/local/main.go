package local

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/portuse"
)

// Main runs "upkeep local" with the arguments after it and returns the exit code.
func Main(args []string) int {
	err := runLocal(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return 0
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(os.Stderr, "upkeep local: %s\n", strings.TrimSpace(line))
		}
	}
	return config.ExitCode(err)
}

func runLocal(args []string) error {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	environ := memberEnv(os.Environ())
	// The flags are read before anything on disk changes.
	if err := checkExtra(o.specs(), environ); err != nil {
		return err
	}
	last, err := planDir(o)
	if err != nil {
		return err
	}
	specs := o.specs()
	if err := checkPorts(specs); err != nil {
		return err
	}
	release, err := prepareDir(o, last)
	if err != nil {
		return err
	}
	defer release()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	screen, err := openConsole(os.Stdin, os.Stdout, cancel)
	if err != nil {
		return err
	}
	defer screen.restore()
	p := palette{o.useColor(screen.color)}
	c := &cluster{
		program: program, environ: environ, palette: p, out: screen.out, probe: probeHealth,
		banner: bannerText(p, o, specs, findCtl(program)),
	}
	for _, s := range specs {
		c.members = append(c.members, &member{spec: s})
	}
	if last != nil && !o.fresh {
		c.say("continuing with the data in %s", o.dataDir)
	}
	return c.run(ctx, screen.commands)
}

// checkPorts finds a port that is in use before any member is started.
func checkPorts(specs []spec) error {
	var errs []error
	for _, s := range specs {
		for _, address := range []string{s.clientAddress(), s.peerAddress()} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				errs = append(errs, fmt.Errorf("member %s: %w; choose others with --base-port", s.name, portuse.Explain(err, address)))
				continue
			}
			l.Close()
		}
	}
	return errors.Join(errs...)
}

// findCtl returns how to call upkeepctl: by its path if it lies beside this program.
func findCtl(program string) string {
	path := filepath.Join(filepath.Dir(program), "upkeepctl")
	if _, err := os.Stat(path); err != nil {
		return "upkeepctl"
	}
	if dir, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(dir, path); err == nil && !strings.HasPrefix(relative, "..") {
			return relative
		}
	}
	return path
}
