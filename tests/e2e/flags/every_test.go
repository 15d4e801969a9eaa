package flags

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

// unstated are the defaults that etcd's help shows in another form than its flags read, or not at all.
var unstated = map[string]string{
	"data-dir": "default.etcd", "memory-mlock": "false", "enable-grpc-gateway": "true", "backend-batch-interval": "0s",
	"max-concurrent-streams": "4294967295", "bootstrap-defrag-threshold-megabytes": "0", "compaction-sleep-interval": "0s",
	"downgrade-check-time": "5s", "snapshot-catchup-entries": "5000",
}

// refused are listed in etcd's help and refused by etcd.
var refused = []string{"discovery", "discovery-proxy"}

var flagLine = regexp.MustCompile(`(?m)^  --([a-z0-9-]+)(?: '?([^'\n]*)'?)?$`)

// etcdFlags reads names and defaults out of `etcd --help`.
func etcdFlags(t *testing.T) map[string]string {
	out, err := exec.Command(proc.Peer(t, "etcd"), "--help").CombinedOutput()
	check(t, err)
	_, body, found := strings.Cut(string(out), "\nMember:\n")
	if !found {
		t.Fatal("etcd --help has no section Member")
	}
	flags := map[string]string{}
	for _, m := range flagLine.FindAllStringSubmatch(body, -1) {
		flags[m[1]] = m[2]
	}
	if len(flags) < 110 {
		t.Fatalf("only %d flags in etcd --help", len(flags))
	}
	maps.Copy(flags, unstated)
	for _, name := range refused {
		delete(flags, name)
	}
	return flags
}

func envOf(name string) string { return "ETCD_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// TestEveryFlag: each flag of etcd's help is read with its default from the command line, the environment and the config
// file, and comes to the same; given in two of these ways it is a conflict, as with etcd.
func TestEveryFlag(t *testing.T) {
	for name, value := range etcdFlags(t) {
		needs := map[string][]string{
			"listen-client-urls": {"--advertise-client-urls=http://localhost:2379"}, // without it, both refuse
		}[name]
		byFlag := parse(t, append(needs, "--"+name+"="+value), nil)
		for _, w := range byFlag.Warnings {
			if strings.Contains(w.String(), "unrecognized") {
				t.Errorf("--%s=%s: %s", name, value, w)
			}
		}
		byEnv := parse(t, needs, []string{envOf(name) + "=" + value})
		path := filepath.Join(t.TempDir(), "config.yaml")
		check(t, os.WriteFile(path, fileOf(t, map[string]string{name: value}), 0o600))
		byFile := parse(t, []string{"--config-file=" + path}, nil)
		for _, w := range byFile.Warnings {
			if strings.Contains(w.String(), "ignored") {
				t.Errorf("%s in the config file: %s", name, w)
			}
		}
		want := comparable(byFlag)
		if value != "" { // an empty variable counts as unset
			if got := comparable(byEnv); got != want {
				t.Errorf("%s: by environment\n%s\nby flag\n%s", name, got, want)
			}
			_, err := config.Parse(append(needs, "--"+name+"="+value), []string{envOf(name) + "=" + value})
			if err == nil || !strings.Contains(err.Error(), "conflicting environment variable "+envOf(name)) {
				t.Errorf("%s as flag and in the environment: %v", name, err)
			}
		}
		if got := comparable(byFile); got != want {
			t.Errorf("%s: by file\n%s\nby flag\n%s", name, got, want)
		}
	}
}

func parse(t *testing.T, args, environ []string) *config.Config {
	t.Helper()
	cfg, err := config.Parse(args, environ)
	if err != nil {
		t.Fatalf("%v %v: %v", args, environ, err)
	}
	return cfg
}

// comparable is a configuration as text, but for where it came from.
func comparable(c *config.Config) string {
	clone := *c
	clone.File, clone.Warnings = "", nil
	return fmt.Sprintf("%+v", clone)
}

// fileOf writes a config file. Settings of TLS stand in sections, durations are nanoseconds.
func fileOf(t *testing.T, flags map[string]string) []byte {
	values := map[string]any{}
	for name, text := range flags {
		var value any = text
		if name == "auto-compaction-retention" {
			value = text
		} else if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			value = n
		} else if b, err := strconv.ParseBool(text); err == nil {
			value = b
		} else if d, err := time.ParseDuration(text); err == nil {
			value = d.Nanoseconds()
		}
		values[name] = value
	}
	out, err := json.Marshal(values)
	check(t, err)
	return out
}

// TestAllFlagsAtOnce: both programs serve with every flag set to its default, from the command line, the environment and
// a file.
func TestAllFlagsAtOnce(t *testing.T) {
	t.Parallel()
	flags := etcdFlags(t)
	for _, absent := range []string{"config-file", "discovery-srv", "discovery-srv-name", "discovery-token", "discovery-endpoints", "wal-dir", "cipher-suites"} {
		delete(flags, absent)
	}
	for program, path := range map[string]string{"upkeep": proc.Build(t, "upkeep"), "etcd": proc.Peer(t, "etcd")} {
		for _, way := range []string{"flags", "environment", "file"} {
			t.Run(program+" "+way, func(t *testing.T) {
				m := proc.Prepare(t, path, "default", t.TempDir()+"/data", "http://"+ports.Address(t))
				mine := maps.Clone(flags)
				for i := 0; i < len(m.Arguments()); i += 2 {
					mine[strings.TrimPrefix(m.Arguments()[i], "--")] = m.Arguments()[i+1]
				}
				launch(t, m, way, mine)
				m.WaitReady()
			})
		}
	}
}

func launch(t *testing.T, m *proc.Member, way string, flags map[string]string) {
	switch way {
	case "flags":
		var args []string
		for name, value := range flags {
			args = append(args, "--"+name+"="+value)
		}
		m.Only(args...)
	case "environment":
		m.Only()
		for name, value := range flags {
			m.Setenv(envOf(name), value)
		}
	case "file":
		for name := range flags {
			// In etcd's file these stand in sections, where an empty text is what is there without them.
			tls := strings.Contains(name, "cert") || strings.Contains(name, "key-file") || strings.Contains(name, "ca-file") ||
				strings.Contains(name, "crl") || strings.HasSuffix(name, "auto-tls")
			lists := name == "log-outputs" || name == "cipher-suites"
			if tls || lists || strings.HasPrefix(name, "discovery") || flags[name] == "" {
				delete(flags, name)
			}
		}
		path := filepath.Join(t.TempDir(), "all.json")
		check(t, os.WriteFile(path, fileOf(t, flags), 0o600))
		m.Only("--config-file", path)
	}
	m.Launch()
}

// TestWrongValues: a value that is not of a flag's kind ends both programs, with the same exit code.
func TestWrongValues(t *testing.T) {
	t.Parallel()
	upkeep, etcd := proc.Build(t, "upkeep"), proc.Peer(t, "etcd")
	// Flags that take any text, and say what is wrong with it, if at all, when it is used.
	free := []string{
		"name", "data-dir", "wal-dir", "config-file", "initial-cluster-token", "discovery-token", "discovery-endpoints", "discovery-cert",
		"discovery-key", "discovery-cacert", "discovery-user", "discovery-password", "discovery-srv", "discovery-srv-name",
		"distributed-tracing-address", "distributed-tracing-service-name", "distributed-tracing-instance-id", "host-whitelist",
		"backend-bbolt-freelist-type", "metrics", "log-rotation-config-json", "log-outputs", "key-file", "cert-file", "peer-key-file", "peer-cert-file", "trusted-ca-file",
		"peer-trusted-ca-file", "client-cert-file", "client-key-file", "peer-client-cert-file", "peer-client-key-file", "client-crl-file",
		"peer-crl-file", "client-cert-allowed-hostname", "peer-cert-allowed-cn", "peer-cert-allowed-hostname",
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, 4)
	tested := 0
	flags := etcdFlags(t)
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		if slices.Contains(free, name) {
			continue
		}
		tested++
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ours, text := end(t, upkeep, name)
			theirs, _ := end(t, etcd, name)
			if other, known := otherCodes[name]; ours <= 0 || theirs <= 0 || ours != theirs && !known || known && other != [2]int{ours, theirs} {
				t.Errorf("--%s=%s: upkeep ends with %d, etcd with %d", name, nonsense, ours, theirs)
			}
			if !strings.Contains(text, "--"+name) {
				t.Errorf("--%s=%s: the message does not name the flag:\n%s", name, nonsense, text)
			}
		})
	}
	wait.Wait()
	if tested < 60 {
		t.Errorf("only %d flags tested", tested)
	}
}

// otherCodes are the exit codes of Upkeep and etcd where they differ: etcd reads some values with the command line and
// others later.
var otherCodes = map[string][2]int{
	"log-level": {1, 2}, "logger": {2, 1}, "initial-cluster": {2, 1},
}

const nonsense = "%nonsense%"

// end is the exit code and what was said.
func end(t *testing.T, program, flag string) (int, string) {
	dir := t.TempDir()
	cmd := exec.CommandContext(deadline(t), program, "--data-dir", dir+"/data", "--"+flag+"="+nonsense)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Errorf("%s --%s=%s: %v\n%s", program, flag, nonsense, err, out)
		return 0, ""
	}
	return exit.ExitCode(), string(out)
}
