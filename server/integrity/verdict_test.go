package integrity

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// Each line of a script is a member's answer: "m0 floor=5 hash=a", "m1 short" or "m2 down".
func TestJudge(t *testing.T) {
	datadriven.RunTest(t, "testdata/judge", func(t *testing.T, d *datadriven.TestData) string {
		var answers []Answer
		for i, line := range strings.Split(d.Input, "\n") {
			var name, what string
			fmt.Sscan(line, &name, &what)
			a := Answer{Member: Member{ID: uint64(i + 1), Name: name}}
			switch what {
			case "down":
				a.Err = errors.New("unreachable")
			case "short":
				a.Short = true
			default:
				var hash string
				if _, err := fmt.Sscanf(what+" "+line[strings.Index(line, "hash="):], "floor=%d hash=%s", &a.CompactRevision, &hash); err != nil {
					d.Fatalf(t, "%q: %v", line, err)
				}
				a.Sum = uint32(hash[0])
			}
			answers = append(answers, a)
		}
		v := Judge(answers)
		names := func(members []Member) string {
			var out []string
			for _, m := range members {
				out = append(out, m.Name)
			}
			return strings.Join(out, " ")
		}
		return fmt.Sprintf("compared %d of %d\nequal %v, tie %v\nhealthy: %s\ndiffering: %s\n", v.Compared, len(answers), v.Equal(), v.Tie,
			names(v.Healthy), names(v.Differing))
	})
}
