package local

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/upkeep-kv/upkeep/server/config"
)

const usage = `Usage:

  upkeep local [flags] [-- flags of every member]
    Run a whole cluster on this machine, each member a process of its own, until Ctrl-C.
    A second run continues with the same data.

Flags:
  --members '3'
    Number of members.
  --base-port '2379'
    Client port of the first member; its peer port is the next one. Each further member is 10 ports on.
  --data-dir './upkeep-local'
    Directory for the data of all members.
  --fresh
    Start over: delete the data of the last run first.
  --color 'auto'
    'always', 'never', or 'auto' for terminals only.

Example: small quota on every member

  upkeep local -- --quota-backend-bytes=16777216
`

const (
	maxMembers    = 9 // a member is addressed by one digit
	portStep      = 10
	defaultMember = 3
	defaultPort   = 2379
)

// options are those of the command line.
type options struct {
	members  int
	basePort int
	dataDir  string
	fresh    bool
	color    string
	extra    []string // flags for every member

	membersGiven, basePortGiven bool
}

// parseOptions reads the arguments after "upkeep local".
func parseOptions(args []string) (*options, error) {
	o := &options{}
	if at := slices.Index(args, "--"); at >= 0 {
		args, o.extra = args[:at], args[at+1:]
	}
	fs := flag.NewFlagSet("upkeep local", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.IntVar(&o.members, "members", defaultMember, "")
	fs.IntVar(&o.basePort, "base-port", defaultPort, "")
	fs.StringVar(&o.dataDir, "data-dir", "upkeep-local", "")
	fs.BoolVar(&o.fresh, "fresh", false, "")
	fs.StringVar(&o.color, "color", "auto", "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		text := strings.NewReplacer("not defined: -", "not defined: --", "for flag -", "for flag --", "argument: -", "argument: --").Replace(err.Error())
		return nil, &config.UsageError{Err: fmt.Errorf("%s (flags of the members go after --)", text)}
	}
	fs.Visit(func(f *flag.Flag) {
		o.membersGiven = o.membersGiven || f.Name == "members"
		o.basePortGiven = o.basePortGiven || f.Name == "base-port"
	})
	return o, o.check(fs.Args())
}

func (o *options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("%q is not a flag of upkeep local; flags of the members go after --", rest[0])
	case o.members < 1 || o.members > maxMembers:
		return fmt.Errorf("--members must be 1 to %d (set to %d)", maxMembers, o.members)
	case o.basePort < 1 || o.basePort+portStep*(o.members-1)+1 > 65535:
		return fmt.Errorf("--base-port %d leaves no room for the ports of %d members", o.basePort, o.members)
	case !slices.Contains([]string{"auto", "always", "never"}, o.color):
		return fmt.Errorf("--color %q must be auto, always or never", o.color)
	case o.dataDir == "":
		return errors.New("--data-dir must not be empty")
	}
	return nil
}

// spec is one member as it is started.
type spec struct {
	number     int // from 1 on, as typed
	name       string
	dataDir    string
	clientPort int
	peerPort   int
	args       []string
}

func (s spec) clientAddress() string { return "127.0.0.1:" + strconv.Itoa(s.clientPort) }
func (s spec) clientURL() string     { return "http://" + s.clientAddress() }
func (s spec) peerAddress() string   { return "127.0.0.1:" + strconv.Itoa(s.peerPort) }
func (s spec) peerURL() string       { return "http://" + s.peerAddress() }

// specs lays the cluster out.
func (o *options) specs() []spec {
	specs := make([]spec, o.members)
	var initial []string
	for i := range specs {
		s := &specs[i]
		s.number, s.name = i+1, "m"+strconv.Itoa(i+1)
		s.dataDir = filepath.Join(o.dataDir, s.name)
		s.clientPort = o.basePort + portStep*i
		s.peerPort = s.clientPort + 1
		initial = append(initial, s.name+"="+s.peerURL())
	}
	for i := range specs {
		s := &specs[i]
		s.args = append([]string{
			"--name=" + s.name, "--data-dir=" + s.dataDir,
			"--listen-client-urls=" + s.clientURL(), "--advertise-client-urls=" + s.clientURL(),
			"--listen-peer-urls=" + s.peerURL(), "--initial-advertise-peer-urls=" + s.peerURL(),
			"--initial-cluster=" + strings.Join(initial, ","), "--initial-cluster-token=upkeep-local",
			"--log-format=json", "--log-outputs=stderr",
		}, o.extra...)
	}
	return specs
}

// checkExtra reads the flags of each member as the member will, so that a mistake in them is told once, and refuses
// those that would take a member out of the layout.
func checkExtra(specs []spec, environ []string) error {
	for _, s := range specs {
		cfg, err := config.Parse(s.args, environ)
		switch {
		case errors.Is(err, config.ErrHelp) || errors.Is(err, config.ErrVersion):
			return errors.New("--help and --version are not for members; see upkeep --help")
		case err != nil:
			return err
		case cfg.File != "":
			return errors.New("--config-file cannot be used with upkeep local: all members would read the same names and ports from it")
		}
		one := func(flag, got, want string) error {
			if got != want {
				return fmt.Errorf("--%s is set by upkeep local itself", flag)
			}
			return nil
		}
		err = errors.Join(
			one("name", cfg.Name, s.name), one("data-dir", cfg.DataDir, s.dataDir), one("wal-dir", cfg.WALDir, ""),
			one("listen-client-urls", strings.Join(config.URLStrings(cfg.ListenClientURLs), ","), s.clientURL()),
			one("listen-peer-urls", strings.Join(config.URLStrings(cfg.ListenPeerURLs), ","), s.peerURL()),
			one("advertise-client-urls", strings.Join(config.URLStrings(cfg.AdvertiseClientURLs), ","), s.clientURL()),
			one("initial-advertise-peer-urls", strings.Join(config.URLStrings(cfg.AdvertisePeerURLs), ","), s.peerURL()),
			one("listen-client-http-urls", strings.Join(config.URLStrings(cfg.ListenClientHTTPURLs), ","), ""),
			one("listen-metrics-urls", strings.Join(config.URLStrings(cfg.ListenMetricsURLs), ","), ""),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// memberEnv is the environment of the members: a config file would replace their flags.
func memberEnv(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(pair string) bool { return strings.HasPrefix(pair, "ETCD_CONFIG_FILE=") })
}

// useColor decides about colours for out.
func (o *options) useColor(terminal bool) bool {
	switch o.color {
	case "always":
		return true
	case "never":
		return false
	}
	return terminal && os.Getenv("NO_COLOR") == ""
}
