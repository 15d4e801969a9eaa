package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long the members may take to stop before they are killed.
const stopTimeout = 15 * time.Second

// state is where a member is in its life.
type state int

const (
	exited   state = iota // no process
	starting              // runs, does not serve yet
	serving
	paused   // by SIGSTOP
	stopping // was told to stop or killed
)

func (s state) String() string {
	return [...]string{"exited", "starting", "serving", "paused", "stopping"}[s]
}

// member is one member and its current process. Only cluster.run touches it.
type member struct {
	spec
	state state
	// was is the state to return to on resume.
	was     state
	process *process
	// run counts the processes of this member, so that an event of an earlier one is known as such.
	run       int
	stopProbe context.CancelFunc
	ever      bool // has served in this session
}

// cluster is a set of members and the one goroutine that commands them.
type cluster struct {
	program string
	environ []string
	members []*member
	palette palette
	out     io.Writer // whole lines, from any goroutine
	// probe returns once the member serves clients, or with an error when ctx ends.
	probe func(ctx context.Context, s spec) error
	// banner is shown once, when all members serve.
	banner string
	// commanded is true while somebody can type commands.
	commanded bool

	spawner *spawner
	events  chan func() // run by cluster.run, in order
	// ended is closed when run no longer takes events.
	ended chan struct{}
	tasks sync.WaitGroup
}

// Why a run ends by itself.
var (
	errNoneServed = errors.New("every member has ended before it served a client; its last lines above say why")
	errAllEnded   = errors.New("every member has ended")
)

// run starts every member and serves events until ctx ends, quit is typed or nothing is left to do; then it stops all
// members and joins every goroutine of theirs.
func (c *cluster) run(ctx context.Context, commands <-chan string) error {
	c.spawner = newSpawner()
	c.commanded = true
	c.events, c.ended = make(chan func()), make(chan struct{})
	for _, m := range c.members {
		c.start(m)
	}
	err := c.loop(ctx, commands)
	c.stopAll()
	close(c.ended)
	for _, m := range c.members {
		if m.process != nil {
			m.process.joined.Wait()
		}
	}
	c.tasks.Wait()
	c.spawner.close()
	return err
}

func (c *cluster) loop(ctx context.Context, commands <-chan string) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case line, open := <-commands:
			if !open {
				commands = nil // the cluster goes on until a signal
				c.commanded = false
			}
			if quit := open && c.command(ctx, line); quit {
				return nil
			}
		case event := <-c.events:
			event()
		}
		if err := c.hopeless(); err != nil {
			return err
		}
	}
}

// hopeless says why there is nothing left to wait for: all members have ended, and nobody can start them again or
// none of them ever served.
func (c *cluster) hopeless() error {
	ever := false
	for _, m := range c.members {
		if m.state != exited {
			return nil
		}
		ever = ever || m.ever
	}
	switch {
	case !ever:
		return errNoneServed
	case !c.commanded:
		return errAllEnded
	}
	return nil
}

// send has run call event, unless it has ended.
func (c *cluster) send(event func()) {
	select {
	case c.events <- event:
	case <-c.ended:
	}
}

func (c *cluster) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

// start begins a process for a member that has none.
func (c *cluster) start(m *member) {
	m.run++
	run := m.run
	prefix := c.palette.member(m.number, m.name)
	p, err := startProcess(c.spawner, c.program, m.args, c.environ,
		func(line string) { fmt.Fprintf(c.out, "%s %s\n", prefix, shorten(c.palette, line)) },
		func(err error) { c.send(func() { c.onExit(m, run, err) }) })
	if err != nil {
		c.say("%s cannot be started: %v", m.name, err)
		c.tasks.Go(func() { c.send(func() {}) }) // so that run notices if this was the last one
		return
	}
	m.process, m.state = p, starting
	ctx, cancel := context.WithCancel(context.Background())
	m.stopProbe = cancel
	c.tasks.Go(func() {
		if err := c.probe(ctx, m.spec); err == nil {
			c.send(func() { c.onServing(m, run) })
		}
	})
}

func (c *cluster) onServing(m *member, run int) {
	switch {
	case run != m.run || m.state == exited || m.state == stopping:
		return
	case m.state == paused:
		m.was = serving
	default:
		m.state = serving
	}
	m.ever = true
	c.say("%s serves clients on %s", c.palette.paint(styleBold, m.name), m.clientURL())
	for _, other := range c.members {
		if !other.ever {
			return
		}
	}
	if c.banner != "" {
		c.say("%s", c.banner)
		c.banner = ""
	}
}

func (c *cluster) onExit(m *member, run int, err error) {
	if run != m.run {
		return
	}
	m.stopProbe()
	asked := m.state == stopping
	m.state = exited
	how := "has ended by itself"
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		how += ": " + exit.Error()
	}
	if asked {
		how = "has stopped"
		if status, ok := m.process.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			how = "was killed"
		}
	}
	text := fmt.Sprintf("%s %s.", m.name, how)
	if c.commanded {
		text += fmt.Sprintf(" Type %d to start it again.", m.number)
	}
	c.say("%s", c.palette.paint(styleBold, text))
}

// stopAll ends every process: asked first, then forced.
func (c *cluster) stopAll() {
	running := 0
	for _, m := range c.members {
		if m.state == exited {
			continue
		}
		running++
		m.stopProbe()
		_ = m.process.signal(syscall.SIGTERM) // it may just have ended
		_ = m.process.signal(syscall.SIGCONT) // one that is paused has to run to end
		m.state = stopping
	}
	if running == 0 {
		return
	}
	c.commanded = false // nothing can be started again
	c.say("stopping %d member(s)", running)
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	for c.running() > 0 {
		select {
		case event := <-c.events:
			event()
		case <-timeout.C:
			for _, m := range c.members {
				if m.state != exited {
					c.say("%s does not stop, killing it", m.name)
					_ = m.process.signal(syscall.SIGKILL)
				}
			}
		}
	}
}

func (c *cluster) running() int {
	n := 0
	for _, m := range c.members {
		if m.state != exited {
			n++
		}
	}
	return n
}

// find returns the member that "2" or "m2" means.
func (c *cluster) find(word string) *member {
	for _, m := range c.members {
		if word == m.name || word == fmt.Sprint(m.number) {
			return m
		}
	}
	return nil
}

// command does what was typed and reports whether it was to quit.
func (c *cluster) command(ctx context.Context, line string) (quit bool) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return false
	}
	if m := c.find(words[0]); m != nil && len(words) == 1 {
		c.commandStart(m)
		return false
	}
	if len(words) == 1 {
		switch words[0] {
		case "status":
			c.status(ctx)
			return false
		case "help", "?":
			c.say("%s", help)
			return false
		case "quit", "exit":
			return true
		}
	}
	if len(words) == 2 {
		if m := c.find(words[1]); m != nil && c.commandSignal(m, words[0]) {
			return false
		}
	}
	c.say("%q is not understood. %s", line, help)
	return false
}

const help = `Commands:
  N          start member N again after it has ended
  kill N     end member N at once, as a crash would (SIGKILL)
  stop N     end member N gracefully (SIGTERM)
  pause N    freeze member N (SIGSTOP)
  resume N   let it run on (SIGCONT)
  status     show every member
  quit       stop all members and leave, as Ctrl-C does`

func (c *cluster) commandStart(m *member) {
	if m.state != exited {
		c.say("%s runs already (%s)", m.name, m.state)
		return
	}
	c.say("starting %s", m.name)
	c.start(m)
}

// commandSignal does kill, stop, pause and resume; it reports whether verb is one of them.
func (c *cluster) commandSignal(m *member, verb string) bool {
	if m.state == exited && (verb == "kill" || verb == "stop" || verb == "pause" || verb == "resume") {
		c.say("%s does not run", m.name)
		return true
	}
	switch verb {
	case "kill":
		m.state = stopping
		c.deliver(m, syscall.SIGKILL)
	case "stop":
		m.state = stopping
		c.deliver(m, syscall.SIGTERM)
		c.deliver(m, syscall.SIGCONT)
	case "pause":
		if m.state == paused || m.state == stopping {
			c.say("%s is %s", m.name, m.state)
			return true
		}
		m.was, m.state = m.state, paused
		c.deliver(m, syscall.SIGSTOP)
		c.say("%s is paused. Type resume %d to let it run on.", m.name, m.number)
	case "resume":
		if m.state != paused {
			c.say("%s is not paused", m.name)
			return true
		}
		m.state = m.was
		c.deliver(m, syscall.SIGCONT)
		c.say("%s runs on", m.name)
	default:
		return false
	}
	return true
}

func (c *cluster) deliver(m *member, s syscall.Signal) {
	if err := m.process.signal(s); err != nil && !errors.Is(err, syscall.ESRCH) {
		c.say("%s: %v", m.name, err)
	}
}
