package command

import (
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// environmentPrefixes name the variables that set global flags, the stronger
// last: UPKEEPCTL_ENDPOINTS wins over ETCDCTL_ENDPOINTS.
func environmentPrefixes() []string { return []string{"ETCDCTL_", "UPKEEPCTL_"} }

// environmentName returns the variable of a flag, e.g. ETCDCTL_WRITE_OUT.
func environmentName(prefix, flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyEnvironment sets global flags from the environment. A flag given on the
// command line beside its variable is fatal, as for etcdctl: one of them is a mistake.
func (a *app) applyEnvironment(cmd *cobra.Command) error {
	flags := cmd.Root().PersistentFlags()
	given := map[string]bool{}
	flags.VisitAll(func(flag *pflag.Flag) { given[flag.Name] = flag.Changed })

	known := map[string]bool{}
	var shadowed string
	for _, prefix := range environmentPrefixes() {
		flags.VisitAll(func(flag *pflag.Flag) {
			name := environmentName(prefix, flag.Name)
			known[name] = true
			value := os.Getenv(name)
			switch {
			case value == "":
			case given[flag.Name]:
				shadowed = name
			default:
				before := flag.Value.String()
				if err := flags.Set(flag.Name, value); err != nil {
					_ = flag.Value.Set(before) // a value that does not parse is ignored, as by etcdctl
				}
			}
		})
	}
	lg := a.logger()
	a.warnUnknownVariables(lg, known)
	if shadowed != "" {
		lg.Error("conflicting environment variable is shadowed by corresponding command-line flag "+
			"(either unset environment variable or disable flag))", zap.String("environment-variable", shadowed))
		return fail(exitError, nil)
	}
	return nil
}

func (a *app) warnUnknownVariables(lg *zap.Logger, known map[string]bool) {
	var unknown []string
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		for _, prefix := range environmentPrefixes() {
			if strings.HasPrefix(name, prefix) && !known[name] {
				unknown = append(unknown, pair)
			}
		}
	}
	sort.Strings(unknown)
	for _, pair := range unknown {
		lg.Warn("unrecognized environment variable", zap.String("environment-variable", pair))
	}
}

// lookupVariable returns the value of a variable under the strongest prefix that has it.
func lookupVariable(name string) (value, fullName string) {
	prefixes := environmentPrefixes()
	fullName = prefixes[0] + name
	for _, prefix := range prefixes {
		if v := os.Getenv(prefix + name); v != "" {
			value, fullName = v, prefix+name
		}
	}
	return value, fullName
}

// logger writes JSON lines to the command's error stream, as etcd's client does.
func (a *app) logger() *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000000Z0700")
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.AddSync(a.err), zap.InfoLevel))
}
