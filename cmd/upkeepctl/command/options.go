package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// globalOptions are the flags that every command takes.
type globalOptions struct {
	endpoints      []string
	writeOut       string
	hex            bool
	debug          bool
	dialTimeout    time.Duration
	commandTimeout time.Duration

	keepaliveTime    time.Duration
	keepaliveTimeout time.Duration
	maxRequestBytes  int
	maxRecvBytes     int

	insecureTransport  bool
	insecureSkipVerify bool
	insecureDiscovery  bool
	cert, key, cacert  string
	user, password     string
	token              string
	discoverySRV       string
	discoverySRVName   string
}

func (o *globalOptions) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringSliceVar(&o.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "gRPC endpoints of the members")
	f.StringVarP(&o.writeOut, "write-out", "w", "simple", "output format (fields, json, protobuf, simple, table)")
	f.BoolVar(&o.hex, "hex", false, "print byte strings as hex encoded strings")
	f.BoolVar(&o.debug, "debug", false, "print the settings in effect and what the connection does")
	f.DurationVar(&o.dialTimeout, "dial-timeout", 2*time.Second, "timeout of authentication and other connection set-up")
	f.DurationVar(&o.commandTimeout, "command-timeout", 5*time.Second, "timeout of a short command")
	f.DurationVar(&o.keepaliveTime, "keepalive-time", 2*time.Second, "interval of keepalive pings on a connection")
	f.DurationVar(&o.keepaliveTimeout, "keepalive-timeout", 6*time.Second, "how long a keepalive ping may go unanswered")
	f.IntVar(&o.maxRequestBytes, "max-request-bytes", 0, "largest request to send in bytes (0 means 2 MiB)")
	f.IntVar(&o.maxRecvBytes, "max-recv-bytes", 0, "largest response to accept in bytes (0 means no limit)")
	f.BoolVar(&o.insecureTransport, "insecure-transport", true, "disable transport security")
	f.BoolVar(&o.insecureSkipVerify, "insecure-skip-tls-verify", false, "do not verify the server's certificate (tests only)")
	f.BoolVar(&o.insecureDiscovery, "insecure-discovery", true, "accept SRV records of endpoints without TLS")
	f.StringVar(&o.cert, "cert", "", "client certificate file")
	f.StringVar(&o.key, "key", "", "client key file")
	f.StringVar(&o.cacert, "cacert", "", "file with the certificate authorities that servers are verified with")
	f.StringVar(&o.user, "user", "", "username[:password] to authenticate with (prompts if there is no password)")
	f.StringVar(&o.password, "password", "", "password to authenticate with (then --user has only the name)")
	f.StringVar(&o.token, "auth-jwt-token", "", "JWT to authenticate with, instead of --user and --password")
	f.StringVarP(&o.discoverySRV, "discovery-srv", "d", "", "domain whose SRV records name the endpoints")
	f.StringVar(&o.discoverySRVName, "discovery-srv-name", "", "service name in those SRV records")
	// Help of a command shows its own flags; `options` shows these.
	f.VisitAll(func(flag *pflag.Flag) { flag.Hidden = true })
}

// validate refuses TLS files that were asked for with an empty name, which
// is nearly always an unset shell variable and would silently mean "no TLS".
func (o *globalOptions) validate(flags *pflag.FlagSet) error {
	for _, name := range []string{"cert", "key", "cacert"} {
		if flag := flags.Lookup(name); flag.Changed && flag.Value.String() == "" {
			return errors.New("empty string is passed to --" + name + " option")
		}
	}
	return nil
}

func newOptions(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "Shows the flags that every command takes",
		Run: func(cmd *cobra.Command, _ []string) {
			global := pflag.NewFlagSet("global", pflag.ContinueOnError)
			cmd.Root().PersistentFlags().VisitAll(func(flag *pflag.Flag) {
				shown := *flag
				shown.Hidden = false
				global.AddFlag(&shown)
			})
			fmt.Fprintf(a.out, "The following options can be passed to any command:\n\n%s", global.FlagUsages())
		},
	}
}
