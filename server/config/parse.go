package config

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/upkeep-kv/upkeep/server/tlsconfig"
)

// What Parse returns instead of a configuration when the command line asks for something else than serving.
var (
	ErrHelp    = flag.ErrHelp
	ErrVersion = errors.New("version requested")
)

// UsageError is a command line that cannot be read.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }
func (e *UsageError) Unwrap() error { return e.Err }

// ExitCode is the exit code of the program for an error of Parse or of the server: 2 for a command line that cannot be
// read, 0 for a wish to see help or version, else 1.
func ExitCode(err error) int {
	var usage *UsageError
	switch {
	case err == nil, errors.Is(err, ErrHelp), errors.Is(err, ErrVersion):
		return 0
	case errors.As(err, &usage):
		return 2
	default:
		return 1
	}
}

// parser turns texts into one Config.
type parser struct {
	cfg     *Config
	raw     raw
	options []*option
}

func newParser() *parser {
	p := &parser{cfg: Default(), raw: raw{compactionMode: CompactPeriodic}}
	p.options = optionTable(p.cfg, &p.raw)
	return p
}

func (p *parser) option(name string) *option {
	at := slices.IndexFunc(p.options, func(o *option) bool { return o.name == name })
	if at < 0 {
		return nil
	}
	return p.options[at]
}

// Parse reads the arguments (without the program's name) and the environment (as os.Environ gives it) or the config
// file they name, completes the result and validates it.
func Parse(args, environ []string) (*Config, error) {
	p := newParser()
	if err := p.flags(args); err != nil {
		return nil, err
	}
	if p.raw.version {
		return nil, ErrVersion
	}
	path, err := p.configFile(environ)
	if err != nil {
		return nil, err
	}
	if path != "" {
		p = newParser()
		err = p.file(path)
	} else {
		err = p.environment(environ)
	}
	if err != nil {
		return nil, err
	}
	return p.finish(path != "")
}

func (p *parser) flags(args []string) error {
	fs := flag.NewFlagSet("upkeep", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, o := range p.options {
		fs.Var(o, o.name, o.usage)
	}
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ErrHelp
	case err != nil:
		return &UsageError{explainUndefined(err)}
	case fs.NArg() > 0:
		return fmt.Errorf("%q is not a valid flag", fs.Arg(0))
	}
	return nil
}

// explainUndefined writes flags with two dashes.
func explainUndefined(err error) error {
	if name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		return fmt.Errorf("flag provided but not defined: --%s", name)
	}
	twoDashes := strings.NewReplacer("for flag -", "for flag --", "\" for -", "\" for flag --", "needs an argument: -", "needs an argument: --")
	return errors.New(twoDashes.Replace(err.Error()))
}

// configFile is the path of the config file, if any. The flag and the variable must not both be set.
func (p *parser) configFile(environ []string) (string, error) {
	o := p.option("config-file")
	for _, pair := range environ {
		if name, value, _ := strings.Cut(pair, "="); name == o.env() && value != "" {
			if o.given {
				return "", conflict(o)
			}
			return value, nil
		}
	}
	return p.raw.configFile, nil
}

func conflict(o *option) error {
	return fmt.Errorf("conflicting environment variable %s is shadowed by corresponding command-line flag --%s (either unset environment variable or disable flag)", o.env(), o.name)
}

// environment sets what the flags left open. Empty variables count as unset.
func (p *parser) environment(environ []string) error {
	byEnv := map[string]*option{}
	for _, o := range p.options {
		if !o.hidden {
			byEnv[o.env()] = o
		}
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "ETCD_") && !strings.HasPrefix(name, "UPKEEP_") {
			continue
		}
		o := byEnv[name]
		switch {
		case name == "ETCD_UNSUPPORTED_ARCH":
		case name == "ETCD_VERSION":
			p.warn("cannot set special environment variable", "key", name, "value", value)
		case o == nil:
			p.warn("unrecognized environment variable", "environment-variable", name)
		case value == "":
		case o.given:
			return conflict(o)
		default:
			if err := o.Set(value); err != nil {
				return fmt.Errorf("invalid value %q for %s: %w", value, name, err)
			}
		}
	}
	return nil
}

func (p *parser) warn(message string, fields ...string) {
	p.cfg.Warnings = append(p.cfg.Warnings, warn(message, fields...))
}

// file sets everything from a YAML or JSON file.
func (p *parser) file(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config-file: %w", err)
	}
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return fmt.Errorf("--config-file %s: %w", path, err)
	}
	var keys map[string]any
	decoder := json.NewDecoder(strings.NewReader(string(asJSON)))
	decoder.UseNumber() // 64-bit numbers keep every digit
	if err := decoder.Decode(&keys); err != nil {
		return fmt.Errorf("--config-file %s: expected one setting per line, name: value", path)
	}
	if sockets, ok := keys["socket-options"].(map[string]any); ok {
		delete(keys, "socket-options")
		for name, value := range sockets {
			keys["socket-"+name] = value
		}
	}
	if err := errors.Join(flattenSecurity(keys), flattenDiscovery(keys)); err != nil {
		return fmt.Errorf("--config-file %s: %w", path, err)
	}
	for _, name := range sortedKeys(keys) {
		if err := p.fileKey(name, keys[name]); err != nil {
			return fmt.Errorf("--config-file %s: %s: %w", path, name, err)
		}
	}
	p.cfg.File = path
	return nil
}

func (p *parser) fileKey(name string, value any) error {
	o := p.option(name)
	if o == nil || o.hidden || name == "config-file" || name == "version" {
		p.warn("ignored a key of the config file", "key", name, "reason", "unknown")
		return nil
	}
	text, err := fileText(value, o.nanos)
	if err != nil {
		return err
	}
	if err := o.Set(text); err != nil {
		return fmt.Errorf("invalid value %q: %w", text, err)
	}
	return nil
}

// fileText writes a value of the config file as one would write it on the command line.
func fileText(value any, nanos bool) (string, error) {
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case bool:
		return fmt.Sprint(v), nil
	case json.Number:
		if nanos {
			return v.String() + "ns", nil
		}
		return v.String(), nil
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			part, err := fileText(v[i], nanos)
			if err != nil {
				return "", err
			}
			parts[i] = part
		}
		return strings.Join(parts, ","), nil
	default:
		return "", errors.New("expected a single value or a list")
	}
}

// finish interprets what belongs together, completes and validates.
func (p *parser) finish(fromFile bool) (*Config, error) {
	c := p.cfg
	if !fromFile && p.option("listen-client-urls").given && !p.option("advertise-client-urls").given {
		return nil, errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	}
	// An empty list means the default, as with etcd; only the extra listeners may be absent.
	restoreURLs(&c.ListenPeerURLs, DefaultListenPeerURL)
	restoreURLs(&c.ListenClientURLs, DefaultListenClientURL)
	restoreURLs(&c.AdvertisePeerURLs, DefaultListenPeerURL)
	restoreURLs(&c.AdvertiseClientURLs, DefaultListenClientURL)
	var err error
	if c.AutoCompaction, err = ParseRetention(p.raw.compactionMode, p.raw.retention); err != nil {
		return nil, err
	}
	if c.TLS, err = tlsconfig.ParseProtocol(p.raw.cipherSuites, p.raw.tlsMinVersion, p.raw.tlsMaxVersion); err != nil {
		return nil, err
	}
	gates, warnings, err := ParseFeatureGates(p.raw.gates)
	if err != nil {
		return nil, &UsageError{fmt.Errorf("invalid value %q for flag --feature-gates: %w", p.raw.gates, err)}
	}
	c.Gates = gates
	c.Warnings = append(c.Warnings, warnings...)
	if p.raw.rotation != "" {
		if err := json.Unmarshal([]byte(p.raw.rotation), &c.Log.Rotation); err != nil {
			return nil, fmt.Errorf("--log-rotation-config-json: %w", err)
		}
	}
	advertiseHost(c.ListenPeerURLs, c.AdvertisePeerURLs, DefaultListenPeerURL, defaultHost)
	advertiseHost(c.ListenClientURLs, c.AdvertiseClientURLs, DefaultListenClientURL, defaultHost)
	c.Complete()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	p.warnUnusual()
	p.warnSecurity()
	return c, nil
}

// What bcrypt knows.
const minBcryptCost, maxBcryptCost = 4, 31

func (p *parser) warnUnusual() {
	c := p.cfg
	if c.MaxRequestBytes > 10<<20 {
		p.warn("exceeded recommended request limit", "max-request-bytes", fmt.Sprint(c.MaxRequestBytes), "recommended-request-bytes", fmt.Sprint(10<<20))
	}
	if c.QuotaBackendBytes > 8<<30 {
		p.warn("quota exceeds the recommended maximum", "quota-backend-bytes", fmt.Sprint(c.QuotaBackendBytes), "recommended-bytes", fmt.Sprint(int64(8<<30)))
	}
	if c.BcryptCost < minBcryptCost || c.BcryptCost > maxBcryptCost {
		p.warn("use default bcrypt cost instead of the invalid given cost", "given-cost", fmt.Sprint(c.BcryptCost), "default-cost", fmt.Sprint(DefaultBcryptCost))
		c.BcryptCost = DefaultBcryptCost
	}
	if c.UnsafeNoFsync {
		p.warn("running with --unsafe-no-fsync: a power cut loses acknowledged data")
	}
}

func restoreURLs(field *[]url.URL, preset string) {
	if len(*field) == 0 {
		*field = mustURLs(preset)
	}
}

// advertiseHost replaces the host of a default advertised URL by the machine's own address when the member listens on
// all addresses, since localhost would lead others to themselves.
func advertiseHost(listen, advertise []url.URL, preset string, host func() (string, bool)) {
	if len(listen) != 1 || len(advertise) != 1 || advertise[0].String() != preset {
		return
	}
	listenHost, port, err := net.SplitHostPort(listen[0].Host)
	if err != nil {
		return
	}
	if ip := net.ParseIP(listenHost); ip == nil || !ip.IsUnspecified() {
		return
	}
	if address, ok := host(); ok {
		advertise[0].Host = net.JoinHostPort(address, port)
	}
}

// defaultHost finds the address that the machine's default route goes out from. Connecting a UDP socket asks the
// routing table and sends nothing; 192.0.2.1 is an address for documentation.
func defaultHost() (string, bool) {
	conn, err := net.Dial("udp", "192.0.2.1:9")
	if err != nil {
		return "", false
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err == nil
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
