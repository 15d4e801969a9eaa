package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// valid checks the invariants of a subtree.
func (n *node[V]) valid() error {
	if n == nil {
		return nil
	}
	want := *n
	want.update()
	if want.height != n.height || want.reach != n.reach {
		return fmt.Errorf("%v: height %d reach %v, derived %d %v", n.span, n.height, n.reach, want.height, want.reach)
	}
	if lean := n.left.h() - n.right.h(); lean < -1 || lean > 1 {
		return fmt.Errorf("%v leans by %d", n.span, lean)
	}
	if n.left != nil && n.left.span.compare(n.span) >= 0 || n.right != nil && n.right.span.compare(n.span) <= 0 {
		return fmt.Errorf("%v is out of order", n.span)
	}
	if err := n.left.valid(); err != nil {
		return err
	}
	return n.right.valid()
}

// TestTreeMatchesBruteForce compares the tree with a plain list under random changes.
func TestTreeMatchesBruteForce(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		letters := 2 + rng.IntN(5)
		key := func() string {
			b := make([]byte, 1+rng.IntN(3))
			for i := range b {
				b[i] = byte('a' + rng.IntN(letters))
			}
			return string(b)
		}
		var tr tree[span]
		all := map[span]bool{}
		for range 600 {
			s := span{key: key(), kind: spanKind(rng.IntN(3))}
			if s.kind == keysTo {
				if s.end = key(); s.end <= s.key {
					continue
				}
			}
			if rng.IntN(3) > 0 {
				tr.put(s, s)
				all[s] = true
			} else {
				tr.remove(s)
				delete(all, s)
			}
			if err := tr.root.valid(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if _, ok := tr.get(s); ok != all[s] || tr.len() != len(all) {
				t.Fatalf("seed %d: get %v = %v, %d spans, want %v, %d", seed, s, ok, tr.len(), all[s], len(all))
			}
			k := []byte(key())
			var want []span
			for s := range all {
				if s.key <= string(k) && (s.kind == keysAll || s.kind == keysTo && string(k) < s.end || string(k) == s.key) {
					want = append(want, s)
				}
			}
			slices.SortFunc(want, span.compare)
			if got := tr.stab(k, nil); !slices.Equal(got, want) {
				t.Fatalf("seed %d: stab %s = %v, want %v", seed, k, got, want)
			}
		}
	}
}

func (n *node[V]) draw(depth int, b *strings.Builder) {
	if n == nil {
		return
	}
	n.left.draw(depth+1, b)
	reach := n.reach.end
	if n.reach.open {
		reach = "∞"
	}
	fmt.Fprintf(b, "%s%s reach %s\n", strings.Repeat("  ", depth), spanString(n.span), strings.ReplaceAll(reach, "\x00", "+"))
	n.right.draw(depth+1, b)
}

func spanString(s span) string {
	switch s.kind {
	case oneKey:
		return s.key
	case keysAll:
		return "[" + s.key + ",∞)"
	}
	return "[" + s.key + "," + s.end + ")"
}

func TestTree(t *testing.T) {
	parse := func(t *testing.T, line string) span {
		key, end, ranged := strings.Cut(line, " ")
		if end == "∞" {
			end = "\x00"
		}
		s, err := newSpan([]byte(key), []byte(end))
		if err != nil || ranged == (s.kind == oneKey) {
			t.Fatalf("bad span %q: %v", line, err)
		}
		return s
	}
	var tr tree[string]
	datadriven.RunTest(t, "testdata/tree", func(t *testing.T, d *datadriven.TestData) string {
		var b strings.Builder
		for line := range strings.Lines(d.Input) {
			line = strings.TrimSpace(line)
			switch d.Cmd {
			case "put":
				s := parse(t, line)
				tr.put(s, spanString(s))
			case "remove":
				tr.remove(parse(t, line))
			case "stab":
				fmt.Fprintf(&b, "%s: %s\n", line, strings.Join(tr.stab([]byte(line), nil), " "))
			default:
				d.Fatalf(t, "unknown command")
			}
		}
		if err := tr.root.valid(); err != nil {
			t.Error(err)
		}
		if d.Cmd != "stab" {
			tr.root.draw(0, &b)
		}
		return b.String()
	})
}
