package crash

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/upkeep-kv/upkeep/backend/vfs"
	"github.com/upkeep-kv/upkeep/tests/longrun"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// firstSeed is where random tests begin: UPKEEP_TEST_SEED repeats a failure, else 1.
func firstSeed(t testing.TB) uint64 {
	seed, _ := longrun.Seed(t, 1)
	return seed
}

// total counts the disks of all tests of this process.
var total atomic.Int64

// wantedDisks is what a run of all tests of the package has to come to.
const wantedDisks = 10_000

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv(childEnv) == "" {
		fmt.Printf("crash: recovered from %d different disks\n", total.Load())
		if f := flag.Lookup("test.run"); code == 0 && f.Value.String() == "" && total.Load() < wantedDisks {
			fmt.Printf("that is less than %d\n", wantedDisks)
			code = 1
		}
	}
	os.Exit(code)
}

// tally counts the disks of one test.
type tally struct {
	built int
	seen  map[tried]bool
}

// tried is a disk together with how much of the run had been acknowledged when it was cut: what must be found on it.
type tried struct {
	sum          [sha256.Size]byte
	run          uint64
	acknowledged int
}

func newTally() *tally { return &tally{seen: map[tried]bool{}} }

// disk builds the disk of a cut; nil if an equal one was tried with the same expectation.
func (y *tally) disk(c *Cuts, choice, run uint64, acknowledged int) *vfs.Mem {
	disk, sum := c.build(choice)
	y.built++
	key := tried{sum, run, acknowledged}
	if y.seen[key] {
		return nil
	}
	y.seen[key] = true
	return disk
}

func (y *tally) report(t testing.TB, what string) {
	sum := total.Add(int64(len(y.seen)))
	t.Logf("%s: %d cuts, recovered from %d different disks (%d in all tests so far)", what, y.built, len(y.seen), sum)
}
