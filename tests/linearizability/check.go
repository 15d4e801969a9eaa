package linearizability

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/anishathalye/porcupine"
)

// Violation is one promise that was broken.
type Violation struct {
	Rule   string `json:"rule"`
	Detail string `json:"detail"`
}

func (v Violation) String() string { return v.Rule + ": " + v.Detail }

// maxViolations bounds what one report lists; one broken promise often breaks thousands of expectations.
const maxViolations = 100

// Report is the result of a check.
type Report struct {
	Violations []Violation
	Dropped    int // violations beyond those listed

	Ops       int // requests with a known outcome
	Unknown   int // requests without one
	Happened  int // of those, the ones that turned out to have happened
	Refused   int
	Revisions int64
	Watches   int
	Events    int // seen by all watchers together
	Progress  int // bookmarks
	Expired   int // revisions made by the end of a lease
	Took      time.Duration

	model porcupine.Model
	info  porcupine.LinearizationInfo
}

// String sums the report up in one line.
func (r *Report) String() string {
	return fmt.Sprintf("%d operations (%d unknown, of which %d happened; %d refused), %d revisions (%d by leases), "+
		"%d watches with %d events and %d bookmarks, checked in %v: %d violations",
		r.Ops, r.Unknown, r.Happened, r.Refused, r.Revisions, r.Expired, r.Watches, r.Events, r.Progress,
		r.Took.Round(time.Millisecond), len(r.Violations)+r.Dropped)
}

// SaveTo leaves everything that is needed to understand a failure in dir: the history, the violations and the picture.
func (r *Report) SaveTo(dir string, h *History) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := h.Save(dir); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "report.txt"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.write(f, h); err != nil {
		return err
	}
	return porcupine.VisualizePath(r.model, r.info, filepath.Join(dir, "history.html"))
}

func (r *Report) write(w io.Writer, h *History) error {
	fmt.Fprintf(w, "seed %d\n%v\n\n", h.Seed, r)
	for _, v := range r.Violations {
		fmt.Fprintln(w, v)
	}
	fmt.Fprintln(w, "\nfaults:")
	for _, f := range h.Faults {
		fmt.Fprintf(w, "%12v  %s\n", f.At.Round(time.Millisecond), f.What)
	}
	_, err := fmt.Fprintln(w)
	return err
}

type checker struct {
	history *History
	log     *log
	report  *Report
	byValue map[string]*Op
	// happened are the writes without an answer that the log has.
	happened map[*Op]bool

	// Requests of which few questions are about, apart from the many.
	compactions    []*Op // that may have happened
	unknownDeletes []*Op
	leases         map[int64][]*Op
}

func (c *checker) violate(rule, format string, args ...any) {
	if len(c.report.Violations) >= maxViolations {
		c.report.Dropped++
		return
	}
	c.report.Violations = append(c.report.Violations, Violation{Rule: rule, Detail: fmt.Sprintf(format, args...)})
}

// Check says what one correct store could not have answered. The history stays as it is.
func Check(h *History) *Report {
	start := time.Now()
	c := &checker{history: h, report: &Report{}, byValue: map[string]*Op{}, happened: map[*Op]bool{}, leases: map[int64][]*Op{}}
	c.count()
	c.buildLog()
	c.checkAnswers()
	c.checkOrder()
	c.checkWatches()
	c.checkKeys()
	c.report.Took = time.Since(start)
	return c.report
}

func (c *checker) count() {
	r := c.report
	for _, op := range c.history.Ops {
		switch op.Outcome {
		case Done:
			r.Ops++
		case Unknown:
			r.Unknown++
		case Refused:
			r.Refused++
		}
		switch {
		case op.Kind == Compact && op.Outcome != Refused:
			c.compactions = append(c.compactions, op)
		case op.Kind == Delete && op.Outcome == Unknown:
			c.unknownDeletes = append(c.unknownDeletes, op)
		case op.Kind == Grant, op.Kind == Renew, op.Kind == Revoke:
			c.leases[op.Lease] = append(c.leases[op.Lease], op)
		}
	}
	r.Watches, r.Revisions = len(c.history.Watches), max(0, c.history.Final-firstRevision+1)
	for _, w := range c.history.Watches {
		for _, b := range w.Batches {
			r.Events += len(b.Events)
			if b.Progress {
				r.Progress++
			}
		}
	}
}
