package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/term"
	"google.golang.org/grpc/grpclog"

	"github.com/upkeep-kv/upkeep/cmd/upkeepctl/printer"
)

// connect reads the global flags and their environment, and returns a client
// of the endpoints and the writer for responses. It does not wait for a connection.
func (a *app) connect(cmd *cobra.Command) (*clientv3.Client, printer.Printer, error) {
	out, err := a.settings(cmd)
	if err != nil {
		return nil, nil, err
	}
	endpoints, err := a.endpoints(cmd)
	if err != nil {
		return nil, nil, err
	}
	client, err := a.clientFor(cmd, endpoints)
	return client, out, err
}

// settings applies the environment to the flags, checks them, and returns the
// writer for responses. Commands that dial each endpoint for itself start here.
func (a *app) settings(cmd *cobra.Command) (printer.Printer, error) {
	if err := a.applyEnvironment(cmd); err != nil {
		return nil, err
	}
	out, err := printer.New(a.opts.writeOut, a.opts.hex, a.out)
	if err != nil {
		return nil, err
	}
	if err := a.opts.validate(cmd.Root().PersistentFlags()); err != nil {
		return nil, fail(exitBadArgs, err)
	}
	if a.opts.debug {
		a.showDebug(cmd)
	}
	return out, nil
}

// showDebug prints the settings in effect as environment variables and turns
// on the connection's own log.
func (a *app) showDebug(cmd *cobra.Command) {
	cmd.Root().PersistentFlags().VisitAll(func(flag *pflag.Flag) {
		if flag.Name != "help" {
			fmt.Fprintf(a.err, "%s=%v\n", environmentName("ETCDCTL_", flag.Name), flag.Value)
		}
	})
	grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(a.err, a.err, a.err, 4))
}

// clientFor returns a client of the given endpoints under the global flags.
func (a *app) clientFor(cmd *cobra.Command, endpoints []string) (*clientv3.Client, error) {
	spec, err := a.clientSpec(cmd, endpoints)
	if err != nil {
		return nil, err
	}
	cfg, err := clientv3.NewClientConfig(spec, a.logger())
	if err != nil {
		return nil, fail(exitBadArgs, err)
	}
	if a.quiet && !a.opts.debug {
		cfg.Logger = zap.NewNop()
	}
	client, err := clientv3.New(*cfg)
	if err != nil {
		return nil, fail(exitConnection, err)
	}
	return client, nil
}

func (a *app) clientSpec(cmd *cobra.Command, endpoints []string) (*clientv3.ConfigSpec, error) {
	o := &a.opts
	spec := &clientv3.ConfigSpec{
		Endpoints:          endpoints,
		DialTimeout:        o.dialTimeout,
		KeepAliveTime:      o.keepaliveTime,
		KeepAliveTimeout:   o.keepaliveTimeout,
		MaxCallSendMsgSize: o.maxRequestBytes,
		MaxCallRecvMsgSize: o.maxRecvBytes,
		Secure: &clientv3.SecureConfig{
			Cert: o.cert, Key: o.key, Cacert: o.cacert,
			InsecureTransport:  o.insecureTransport,
			InsecureSkipVerify: o.insecureSkipVerify,
		},
		Auth: &clientv3.AuthConfig{Token: o.token},
	}
	if o.discoverySRV != "" {
		spec.Secure.ServerName = o.discoverySRV
	}
	if o.user == "" {
		return spec, nil
	}
	spec.Auth.Username, spec.Auth.Password = o.user, o.password
	if o.password != "" {
		return spec, nil
	}
	name, password, found := strings.Cut(o.user, ":")
	if !found {
		var err error
		if password, err = a.askPassword(); err != nil {
			return nil, fail(exitError, err)
		}
		o.password = password // ask once, even when several endpoints are dialled
	}
	spec.Auth.Username, spec.Auth.Password = name, password
	return spec, nil
}

// askPassword reads a password from the terminal without showing it, or a
// line from standard input when that is not a terminal.
func (a *app) askPassword() (string, error) {
	return a.secret("Password: ")
}

// secret is askPassword with another prompt; without one it reads a line from standard input, whatever that is.
func (a *app) secret(prompt string) (string, error) {
	if prompt != "" {
		fmt.Fprint(a.out, prompt)
		defer fmt.Fprintln(a.out)
	}
	if file, ok := a.in.(*os.File); ok && prompt != "" && term.IsTerminal(int(file.Fd())) {
		password, err := term.ReadPassword(int(file.Fd()))
		return string(password), err
	}
	var line string
	_, err := fmt.Fscanln(a.in, &line)
	if err != nil && line == "" {
		return "", nil // as with an empty line: an empty password
	}
	return line, nil
}

// endpoints returns where to connect: the flag's list, or what the SRV
// records of --discovery-srv say.
func (a *app) endpoints(cmd *cobra.Command) ([]string, error) {
	if a.opts.discoverySRV == "" {
		return a.opts.endpoints, nil
	}
	found, err := lookupEndpoints(cmd.Context(), a.opts.discoverySRV, a.opts.discoverySRVName)
	if err != nil {
		return nil, fail(exitError, err)
	}
	if a.opts.insecureDiscovery {
		return found, nil
	}
	var secure []string
	for _, endpoint := range found {
		if strings.HasPrefix(endpoint, "https://") {
			secure = append(secure, endpoint)
		}
	}
	if len(secure) == 0 {
		return nil, fail(exitError, errors.New("no secure endpoint among the discovered SRV records"))
	}
	return secure, nil
}

// lookupEndpoints asks for the SRV records _etcd-client-ssl._tcp and _etcd-client._tcp.
func lookupEndpoints(ctx context.Context, domain, suffix string) ([]string, error) {
	if suffix != "" {
		suffix = "-" + suffix
	}
	var endpoints []string
	lookup := func(service, scheme string) error {
		_, records, err := net.DefaultResolver.LookupSRV(ctx, service+suffix, "tcp", domain)
		for _, record := range records {
			host := net.JoinHostPort(record.Target, strconv.Itoa(int(record.Port)))
			endpoints = append(endpoints, (&url.URL{Scheme: scheme, Host: host}).String())
		}
		return err
	}
	secureErr, plainErr := lookup("etcd-client-ssl", "https"), lookup("etcd-client", "http")
	if secureErr != nil && plainErr != nil {
		return nil, fmt.Errorf("dns lookup errors: %w and %w", secureErr, plainErr)
	}
	return endpoints, nil
}

// timeout returns the context of a short command.
func (a *app) timeout(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), a.opts.commandTimeout)
}

// givenTimeout returns the context of a command that may take long: it only
// ends early if --command-timeout was asked for.
func (a *app) givenTimeout(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	if cmd.Root().PersistentFlags().Changed("command-timeout") {
		return a.timeout(cmd)
	}
	return context.WithCancel(cmd.Context())
}

// closeClient ends the connection; its error would say only that it was ending anyway.
func closeClient(client *clientv3.Client) { _ = client.Close() }

// took renders a duration as etcd's tools do.
func took(start time.Time) string { return time.Since(start).String() }
