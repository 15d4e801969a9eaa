package pace

import (
	"sync"
	"sync/atomic"
	"time"
)

// Kind of latency. Each is compared with its own past only.
type Kind int

// The kinds.
const (
	Read Kind = iota
	Write
	syncs // of the log
	kinds
)

const (
	// window is the least time between two looks at the latencies.
	window = 50 * time.Millisecond
	// idleAfter is how long nobody must have asked for anything before work goes on without rest.
	idleAfter = 250 * time.Millisecond
	// settle is how long after a piece a request still counts as disturbed by it.
	settle = 5 * time.Millisecond

	// What the work gets: a share of the time, in pieces of a length.
	firstShare, leastShare, mostShare = 0.5, 0.1, 0.8
	firstPiece, leastPiece, mostPiece = 10 * time.Millisecond, 2 * time.Millisecond, 25 * time.Millisecond
	idlePiece                         = 40 * time.Millisecond
	shrink, grow                      = 0.65, 1.15

	leastRest, mostRest = time.Millisecond, time.Second

	// memory is the weight that the baseline's past has at most, in samples.
	memory = 2000
	// enough samples make a baseline or a finding.
	enough = 20
	// patience is after how many windows a finding is made of fewer.
	patience = 10
	// Samples this long are looked for in the last so many that were disturbed: they
	// are rare, and a disk that others use too has some by itself.
	alarming     = 8 * time.Millisecond
	alarmSamples = 400
)

// Governor decides how fast background work may go. A nil Governor lets it go at
// full speed.
type Governor struct {
	inFlight atomic.Int64
	// working is the number of jobs that work, or did a moment ago.
	working atomic.Int64
	// marks are the last times at which working rose from 0 or fell back to it: the
	// nanoseconds since started, doubled, plus 1 where it rose. last counts them.
	marks   [marks]atomic.Int64
	last    atomic.Uint64
	started time.Time
	// seen is indexed by whether somebody works.
	seen [2][kinds]counters

	mu struct {
		sync.Mutex
		jobs        int
		share       float64
		piece       time.Duration
		undisturbed [kinds]reader
		disturbed   [kinds]reader
		baseline    [kinds]histogram
		finding     [kinds]histogram // disturbed samples not judged yet
		felt        [kinds]histogram // the last alarmSamples disturbed ones
		windows     [kinds]int       // for so many windows
		looked      time.Time
		lastRequest time.Time
	}
}

// New returns a governor that has seen nothing yet.
func New() *Governor {
	g := &Governor{started: time.Now()}
	g.mu.share, g.mu.piece = firstShare, firstPiece
	for k := range kinds {
		g.mu.undisturbed[k].from = &g.seen[0][k]
		g.mu.disturbed[k].from = &g.seen[1][k]
	}
	return g
}

// Begin is called when a client's request arrives, and End when it is answered.
func (g *Governor) Begin() {
	if g != nil {
		g.inFlight.Add(1)
	}
}

// End says what kind of request it was and how long it took.
func (g *Governor) End(k Kind, took time.Duration) {
	if g != nil {
		g.inFlight.Add(-1)
		g.observe(k, took)
	}
}

// Synced is told how long each sync of the log took.
func (g *Governor) Synced(took time.Duration) {
	if g != nil {
		g.observe(syncs, took)
	}
}

func (g *Governor) observe(k Kind, took time.Duration) {
	disturbed := 0
	// What is counted is whether work was going on when the request came. That it
	// went on at any time until the end would be true of nearly all long requests,
	// whatever made them long.
	if took > settle {
		switch g.workingAt(time.Since(g.started) - took) {
		case didWork:
			disturbed = 1
		case forgotten:
			return
		}
	} else if g.working.Load() > 0 {
		disturbed = 1
	}
	g.seen[disturbed][k].add(took)
}

// marks is how many changes are remembered: half as many pieces.
const marks = 256

type past int

const (
	didRest past = iota
	didWork
	forgotten
)

// workingAt looks back. A mark that is being written may be missed, which is one
// request on the wrong side.
func (g *Governor) workingAt(at time.Duration) past {
	last := g.last.Load()
	for i := range min(last, marks) {
		m := g.marks[(last-1-i)%marks].Load()
		if m>>1 <= int64(at) {
			if m&1 == 1 {
				return didWork
			}
			return didRest
		}
	}
	if last < marks {
		return didRest // before the first piece
	}
	return forgotten
}

// rests and works frame the time in which a job disturbs nobody.
func (g *Governor) rests() {
	if g.working.Add(-1) == 0 {
		g.mark(0)
	}
}

func (g *Governor) works() {
	if g.working.Add(1) == 1 {
		g.mark(1)
	}
}

func (g *Governor) mark(rises int64) {
	g.marks[(g.last.Add(1)-1)%marks].Store(int64(time.Since(g.started))<<1 | rises)
}

// Stats says how things stand.
type Stats struct {
	Jobs  int
	Share float64       // of the time, for all jobs together
	Piece time.Duration // that a piece should last
}

// Stats is for metrics.
func (g *Governor) Stats() Stats {
	if g == nil {
		return Stats{Share: 1, Piece: idlePiece}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Stats{Jobs: g.mu.jobs}
	s.Share, s.Piece = g.allowanceLocked()
	return s
}

// allowance is what each of the jobs gets now.
func (g *Governor) allowance() (share float64, piece time.Duration) {
	if g == nil {
		return 1, idlePiece
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lookLocked()
	share, piece = g.allowanceLocked()
	if share < 1 {
		share /= float64(max(g.mu.jobs, 1))
	}
	return share, piece
}

func (g *Governor) allowanceLocked() (share float64, piece time.Duration) {
	if g.inFlight.Load() == 0 && time.Since(g.mu.lastRequest) >= idleAfter {
		return 1, idlePiece
	}
	return g.mu.share, g.mu.piece
}

// lookLocked adjusts share and piece by what was felt since it last did.
func (g *Governor) lookLocked() {
	now := time.Now()
	if now.Sub(g.mu.looked) < window {
		return
	}
	g.mu.looked = now
	worse, judged := false, false
	for k := range kinds {
		quiet, busy := g.mu.undisturbed[k].read(), g.mu.disturbed[k].read()
		if quiet.total+busy.total > 0 { // a sync too: on a follower that is how requests show
			g.mu.lastRequest = now
		}
		remember(&g.mu.baseline[k], &quiet, memory)
		g.mu.finding[k].add(&busy)
		remember(&g.mu.felt[k], &busy, alarmSamples)
		g.mu.windows[k]++
		switch g.judgeLocked(k) {
		case worseNow:
			worse = true
			g.mu.finding[k], g.mu.windows[k] = histogram{}, 0
			g.mu.felt[k] = histogram{} // the answer to it is to be judged by what comes now
		case fine:
			judged = true
			g.mu.finding[k], g.mu.windows[k] = histogram{}, 0
		}
	}
	switch {
	case worse:
		g.mu.share = max(leastShare, g.mu.share*shrink)
		g.mu.piece = max(leastPiece, time.Duration(float64(g.mu.piece)*shrink))
	case judged:
		g.mu.share = min(mostShare, g.mu.share*grow)
		g.mu.piece = min(mostPiece, time.Duration(float64(g.mu.piece)*grow))
	}
}

// remember adds what is new to a histogram in which the past has the weight of at
// most so many samples.
func remember(h, latest *histogram, most float64) {
	if latest.total == 0 {
		return
	}
	if latest.total > most {
		latest.scale(most / latest.total)
	}
	h.add(latest)
	if h.total > most {
		h.scale(most / h.total)
	}
}

type verdict int

const (
	unknown verdict = iota // too little was seen
	fine
	worseNow
)

// judgeLocked compares what was felt during work with the baseline: its tail, its
// middle, and anything out of the ordinary.
func (g *Governor) judgeLocked(k Kind) verdict {
	base, found := &g.mu.baseline[k], &g.mu.finding[k]
	if found.total == 0 {
		return unknown
	}
	known := base.total >= enough
	tail := base.quantile(0.99)
	if g.alarmedLocked(k, max(alarming, 3*tail)) {
		return worseNow
	}
	if found.total < enough && g.mu.windows[k] < patience {
		return unknown
	}
	if known {
		slow := found.above(tail + tail/2)
		if slow >= 2 && slow > found.total/20 {
			return worseNow
		}
		middle := base.quantile(0.5)
		if found.total >= enough && found.quantile(0.5) > middle+middle/2+100*time.Microsecond {
			return worseNow
		}
	}
	return fine
}

// alarmedLocked tells whether latencies above limit are seen more often than the
// baseline has them: twice as often, where it has any.
func (g *Governor) alarmedLocked(k Kind, limit time.Duration) bool {
	base, felt := &g.mu.baseline[k], &g.mu.felt[k]
	long := felt.above(limit)
	if long < 0.5 {
		return false
	}
	usual := 0.0
	if base.total > 0 {
		usual = base.above(limit) / base.total
	}
	if usual == 0 {
		return true
	}
	return long >= 2 && long/felt.total > 2*usual
}
