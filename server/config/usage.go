package config

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const usageHead = `Usage:

  upkeep [flags]
    Run a member. Without a flag: a cluster of one on ports 2379 and 2380, data
    in default.etcd.

  upkeep local [flags] [-- flags of every member]
    Run a whole cluster on this machine, see upkeep local --help.

  upkeep --version
    Show the version.

  upkeep --config-file FILE
    Read the settings from a YAML or JSON file; flags and environment are
    ignored then.

Every flag can be set in the environment instead: --data-dir as ETCD_DATA_DIR,
flags marked (own) with UPKEEP_.
`

// WriteUsageHead writes the short usage text that follows an error.
func WriteUsageHead(w io.Writer) { fmt.Fprint(w, usageHead) }

// WriteUsage writes the usage text with every flag.
func WriteUsage(w io.Writer) {
	WriteUsageHead(w)
	var in section
	for _, o := range newParser().options {
		if o.hidden {
			continue
		}
		if o.section != in {
			in = o.section
			fmt.Fprintf(w, "\n%s:\n", in)
		}
		mark := ""
		if o.own {
			mark = " (own)"
		}
		fmt.Fprint(w, fold(fmt.Sprintf("--%s '%s'%s", o.name, o.preset, mark), "  ", "      "))
		fmt.Fprint(w, fold(o.usage, "    ", "    "))
	}
}

// columns is how wide the usage text may be.
const columns = 80

// fold breaks text at spaces into lines of at most columns characters, as far as words allow, the first behind indent and
// the others behind hang.
func fold(text, indent, hang string) string {
	var b strings.Builder
	line := indent
	for i, word := range strings.Split(text, " ") {
		if i > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			b.WriteString(line + "\n")
			line = hang + word
			continue
		}
		if i > 0 {
			line += " "
		}
		line += word
	}
	return b.String() + line + "\n"
}
