package linearizability

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what a client asked for.
type Kind string

// The kinds of operations.
const (
	Put     Kind = "put"     // Writes[0]
	Swap    Kind = "swap"    // if the mod revision of Key is Expect: all of Writes, else a read of Key
	Delete  Kind = "delete"  // Key
	Get     Kind = "get"     // Key, or all keys where Key is empty; linearizable
	Serial  Kind = "serial"  // like Get, but of what one member has
	Past    Kind = "past"    // Key at revision AtRev
	Grant   Kind = "grant"   // Lease with TTL
	Renew   Kind = "renew"   // Lease, to TTL again
	Revoke  Kind = "revoke"  // Lease
	Compact Kind = "compact" // up to AtRev
)

// Outcome is what is known of an operation.
type Outcome string

// The outcomes of operations.
const (
	Done    Outcome = "done"    // answered
	Unknown Outcome = "unknown" // may have happened, or may happen later
	Refused Outcome = "refused" // has not happened and will not
)

// KV is a pair as the store returns it.
type KV struct {
	Key     string `json:"key"`
	Value   string `json:"value,omitempty"`
	Create  int64  `json:"create,omitempty"`
	Mod     int64  `json:"mod,omitempty"`
	Version int64  `json:"version,omitempty"`
	Lease   int64  `json:"lease,omitempty"`
}

// Write is one put of an operation. Value is unlike that of any other write of the history.
type Write struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Lease int64  `json:"lease,omitempty"`
}

// Op is one request of a client and its answer.
type Op struct {
	Client int     `json:"client"`
	Kind   Kind    `json:"kind"`
	Key    string  `json:"key,omitempty"`
	Writes []Write `json:"writes,omitempty"`
	Expect int64   `json:"expect,omitempty"`
	AtRev  int64   `json:"at_rev,omitempty"`
	Lease  int64   `json:"lease,omitempty"`
	TTL    int64   `json:"ttl,omitempty"` // seconds

	// Call and Return number the moments at which anything was asked or answered, so that "before" is never a tie.
	Call       int64         `json:"call"`
	Return     int64         `json:"return"`
	CallTime   time.Duration `json:"call_time"` // since the start of the history
	ReturnTime time.Duration `json:"return_time"`

	Outcome   Outcome `json:"outcome"`
	Err       string  `json:"err,omitempty"`
	Code      string  `json:"code,omitempty"`      // gRPC's name for Err
	Compacted bool    `json:"compacted,omitempty"` // refused because the revision is gone
	Rev       int64   `json:"rev,omitempty"`       // of the answer's header
	Succeeded bool    `json:"succeeded,omitempty"` // of a swap
	Deleted   int64   `json:"deleted,omitempty"`
	KVs       []KV    `json:"kvs,omitempty"` // what was read
}

// String tells the operation in one line.
func (o *Op) String() string {
	s := fmt.Sprintf("client %d: %s", o.Client, o.Kind)
	if o.Key != "" {
		s += " " + o.Key
	}
	for _, w := range o.Writes {
		s += fmt.Sprintf(" %s=%s", w.Key, w.Value)
	}
	switch o.Kind {
	case Swap:
		s += fmt.Sprintf(" if mod is %d: %v", o.Expect, o.Succeeded)
	case Past, Compact:
		s += fmt.Sprintf(" at %d", o.AtRev)
	case Delete:
		s += fmt.Sprintf(": %d", o.Deleted)
	case Grant, Renew, Revoke:
		s += fmt.Sprintf(" %x for %d s", o.Lease, o.TTL)
	}
	for _, kv := range o.KVs {
		s += fmt.Sprintf(" -> %s=%s@%d", kv.Key, kv.Value, kv.Mod)
	}
	if o.Outcome == Done {
		return s + fmt.Sprintf(", revision %d [%d,%d]", o.Rev, o.Call, o.Return)
	}
	return s + fmt.Sprintf(", %s (%s) [%d,%d]", o.Outcome, o.Err, o.Call, o.Return)
}

// Event is a change as a watcher saw it.
type Event struct {
	Delete bool `json:"delete,omitempty"`
	KV     KV   `json:"kv"`
	Prev   *KV  `json:"prev,omitempty"`
}

// Batch is one response of a watch stream.
type Batch struct {
	Seq       int64         `json:"seq"`
	At        time.Duration `json:"at"`
	Rev       int64         `json:"rev"`                 // of its header
	Progress  bool          `json:"progress,omitempty"`  // everything up to Rev has been sent
	Compacted int64         `json:"compacted,omitempty"` // the watch ended because its start is below this revision
	Events    []Event       `json:"events,omitempty"`
}

// Watch is one watch from its creation to its end. A resumed watch is a new one that starts behind the last.
type Watch struct {
	ID      int     `json:"id"`
	Watcher string  `json:"watcher"`
	Key     string  `json:"key,omitempty"` // empty: all keys
	Start   int64   `json:"start"`         // first revision asked for; 0: the next one
	Created int64   `json:"created"`       // revision of the header that confirmed it
	PrevKV  bool    `json:"prev_kv,omitempty"`
	Batches []Batch `json:"batches,omitempty"`
}

// Fault is something that the nemesis did.
type Fault struct {
	At   time.Duration `json:"at"`
	What string        `json:"what"`
}

// History is everything that was recorded of one run.
type History struct {
	Seed    uint64        `json:"seed"`
	Final   int64         `json:"final"` // revision of the last write, which every collecting watcher has seen
	Took    time.Duration `json:"took"`
	Ops     []*Op         `json:"ops"`
	Watches []*Watch      `json:"watches"`
	Faults  []Fault       `json:"faults"`
}

// Recorder collects a history from many goroutines.
type Recorder struct {
	start time.Time
	seq   atomic.Int64

	mu struct {
		sync.Mutex
		history History
	}
}

// NewRecorder starts a history. seed is kept with it.
func NewRecorder(seed uint64) *Recorder {
	r := &Recorder{start: time.Now()}
	r.mu.history = History{Seed: seed}
	return r
}

// final says where the log ends.
func (r *Recorder) final(rev int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.history.Final = rev
}

// now returns the number of this moment, and the time.
func (r *Recorder) now() (int64, time.Duration) { return r.seq.Add(1), time.Since(r.start) }

// begin stamps the call of an operation.
func (r *Recorder) begin(op *Op) { op.Call, op.CallTime = r.now() }

// end stamps the answer and keeps the operation.
func (r *Recorder) end(op *Op) {
	op.Return, op.ReturnTime = r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.history.Ops = append(r.mu.history.Ops, op)
}

func (r *Recorder) newWatch(w *Watch) *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	w.ID = len(r.mu.history.Watches)
	r.mu.history.Watches = append(r.mu.history.Watches, w)
	return w
}

func (r *Recorder) batch(w *Watch, b Batch) {
	b.Seq, b.At = r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Batches = append(w.Batches, b)
}

// Fault notes what the nemesis does.
func (r *Recorder) Fault(format string, args ...any) {
	_, at := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.history.Faults = append(r.mu.history.Faults, Fault{At: at, What: fmt.Sprintf(format, args...)})
}

// Ops returns how many operations have ended so far.
func (r *Recorder) Ops() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.mu.history.Ops)
}

// History returns what was recorded. Nothing may be recorded any more.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.history.Took = time.Since(r.start)
	return &r.mu.history
}

// historyFile is the name of a history inside the directory that a failure leaves.
const historyFile = "history.json"

// Save writes the history into dir.
func (h *History) Save(dir string) error {
	f, err := os.Create(filepath.Join(dir, historyFile))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	if err := json.NewEncoder(w).Encode(h); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// ReadHistory reads a history that Save has written.
func ReadHistory(dir string) (*History, error) {
	f, err := os.Open(filepath.Join(dir, historyFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := &History{}
	if err := json.NewDecoder(bufio.NewReader(f)).Decode(h); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return h, nil
}
