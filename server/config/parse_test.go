package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestParse runs the scripts under testdata. A block is a command line; lines that begin with $ set the environment and
// lines that begin with | are the config file, reachable as {file}. The answer is what differs from the defaults, or the
// exit code and the message.
func TestParse(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var args, environ []string
			var file strings.Builder
			path := filepath.Join(t.TempDir(), "upkeep.yaml")
			for line := range strings.Lines(d.Input) {
				line = strings.TrimSuffix(line, "\n")
				switch {
				case strings.HasPrefix(line, "$ "):
					environ = append(environ, strings.ReplaceAll(line[2:], "{file}", path))
				case strings.HasPrefix(line, "|"):
					file.WriteString(strings.TrimPrefix(line[1:], " ") + "\n")
				default:
					args = append(args, strings.Fields(strings.ReplaceAll(line, "{file}", path))...)
				}
			}
			if file.Len() > 0 {
				if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg, err := Parse(args, environ)
			return strings.ReplaceAll(answer(cfg, err), path, "{file}")
		})
	})
}

func answer(cfg *Config, err error) string {
	if err != nil {
		return fmt.Sprintf("exit %d: %v\n", ExitCode(err), err)
	}
	preset := Default()
	preset.Complete()
	var b strings.Builder
	diff(&b, "", reflect.ValueOf(*preset), reflect.ValueOf(*cfg))
	for _, w := range cfg.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	if b.Len() == 0 {
		return "defaults\n"
	}
	return b.String()
}

func diff(b *strings.Builder, prefix string, old, new reflect.Value) {
	for i := range old.NumField() {
		name := prefix + old.Type().Field(i).Name
		if !old.Type().Field(i).IsExported() {
			continue
		}
		a, z := old.Field(i).Interface(), new.Field(i).Interface()
		switch {
		case name == "Warnings" || reflect.DeepEqual(a, z):
		case old.Field(i).Kind() == reflect.Struct:
			diff(b, name+".", old.Field(i), new.Field(i))
		default:
			if list, ok := z.([]url.URL); ok {
				z = urlStrings(list)
			}
			fmt.Fprintf(b, "%s: %v\n", name, z)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for arg, want := range map[string]error{"--help": ErrHelp, "-h": ErrHelp, "--version": ErrVersion} {
		if _, err := Parse([]string{arg}, nil); !errors.Is(err, want) || ExitCode(err) != 0 {
			t.Errorf("Parse(%s) = %v with exit code %d, want %v with 0", arg, err, ExitCode(err), want)
		}
	}
}

// Every option that is shown has a default that its own parser understands and that is the default of Config.
func TestOptionPresets(t *testing.T) {
	want := Default()
	p := newParser()
	for _, o := range p.options {
		if o.hidden || o.section == acceptedSection || o.name == "initial-cluster" || strings.Contains(o.preset, "${") {
			continue
		}
		if err := o.Set(o.preset); err != nil {
			t.Errorf("--%s does not accept its own default %q: %v", o.name, o.preset, err)
		}
	}
	p.cfg.ListenClientHTTPURLs, p.cfg.ListenMetricsURLs = nil, nil
	if !reflect.DeepEqual(p.cfg, want) {
		t.Errorf("options set to their shown defaults give %+v, want %+v", p.cfg, want)
	}
}

func TestUsageNamesEveryFlag(t *testing.T) {
	var b bytes.Buffer
	WriteUsage(&b)
	for _, o := range newParser().options {
		if shown := strings.Contains(b.String(), "  --"+o.name+" '"); shown == o.hidden {
			t.Errorf("--%s: shown in usage is %v", o.name, shown)
		}
	}
}

func TestAdvertiseHost(t *testing.T) {
	host := func() (string, bool) { return "192.0.2.7", true }
	for _, c := range []struct{ listen, advertise, want string }{
		{"http://0.0.0.0:4001", DefaultListenClientURL, "http://192.0.2.7:4001"},
		{"http://[::]:2379", DefaultListenClientURL, "http://192.0.2.7:2379"},
		{"http://0.0.0.0:4001", "http://10.0.0.1:4001", "http://10.0.0.1:4001"},
		{"http://127.0.0.1:4001", DefaultListenClientURL, DefaultListenClientURL},
		{"unix:///run/x", DefaultListenClientURL, DefaultListenClientURL},
		{"http://0.0.0.0:1,http://0.0.0.0:2", DefaultListenClientURL, DefaultListenClientURL},
	} {
		advertise := mustURLs(c.advertise)
		advertiseHost(mustURLs(c.listen), advertise, DefaultListenClientURL, host)
		if got := advertise[0].String(); got != c.want {
			t.Errorf("listening on %s and advertising %s: %s, want %s", c.listen, c.advertise, got, c.want)
		}
	}
}

func TestCheckBootstrap(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", ""},
		{"--name m1 --initial-advertise-peer-urls=http://127.0.0.1:9", ""},
		{"--name m1 --initial-cluster m1=http://localhost:2380,m2=http://localhost:3380", ""},
		{"--name m3 --initial-cluster m1=http://localhost:2380", `--initial-cluster "m1=http://localhost:2380" does not contain --name "m3"`},
		{"--name m1 --initial-cluster m1=http://localhost:9", `--initial-cluster has m1=http://localhost:9 but --initial-advertise-peer-urls has [http://localhost:2380]`},
	} {
		cfg, err := Parse(strings.Fields(c.args), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := cfg.CheckBootstrap(); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
}
