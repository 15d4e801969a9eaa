package linearizability

import (
	"cmp"
	"slices"
	"time"
)

// checkAnswers compares every answer with the log, and every revision of the log with the requests.
func (c *checker) checkAnswers() {
	for _, op := range c.history.Ops {
		for _, w := range op.Writes {
			if other := c.byValue[w.Value]; other != nil && other != op {
				c.violate("bad history", "value %s was written twice: %v; %v", w.Value, other, op)
			}
			c.byValue[w.Value] = op
		}
	}
	for _, op := range c.history.Ops {
		if op.Outcome == Done {
			c.checkAnswer(op)
		} else {
			c.checkError(op)
		}
	}
	for i := range c.log.revisions {
		c.explain(c.log.first + int64(i))
	}
}

func (c *checker) checkAnswer(op *Op) {
	if op.Kind == Grant || op.Kind == Renew || op.Kind == Revoke || op.Kind == Compact {
		return
	}
	if op.Rev > c.log.last || op.Rev < 1 {
		c.violate("impossible revision", "the log ends at %d: %v", c.log.last, op)
		return
	}
	switch op.Kind {
	case Put:
		c.claim(op)
	case Swap:
		before := op.Rev
		if op.Succeeded {
			c.claim(op)
			before--
		}
		state, _ := c.log.state(op.Key, before)
		if (state.Mod == op.Expect) != op.Succeeded {
			c.violate("wrong comparison", "mod revision of %s was %d: %v", op.Key, state.Mod, op)
		}
		if !op.Succeeded {
			c.checkRead(op, op.Rev)
		}
	case Delete:
		if op.Deleted > 0 {
			c.claim(op)
		} else if kv, ok := c.log.state(op.Key, op.Rev); ok {
			c.violate("stale read", "%s existed with mod revision %d: %v", op.Key, kv.Mod, op)
		}
	case Get, Serial:
		c.checkRead(op, op.Rev)
	case Past:
		c.checkRead(op, op.AtRev)
	}
}

// checkRead compares what was read with the log at a revision.
func (c *checker) checkRead(op *Op, rev int64) {
	var want []KV
	if op.Key == "" {
		want = c.log.states(rev)
	} else if kv, ok := c.log.state(op.Key, rev); ok {
		want = []KV{kv}
	}
	if !slices.Equal(want, op.KVs) {
		c.violate("wrong read", "at revision %d there was %v: %v", rev, want, op)
	}
}

// checkError checks that a request failed for a reason that a store may have: a fault, a lease that has ended, or a
// revision that is gone and was asked to go.
func (c *checker) checkError(op *Op) {
	allowed := []string{"Unavailable", "DeadlineExceeded", "Canceled"}
	switch op.Kind {
	case Put, Renew, Revoke:
		allowed = append(allowed, "NotFound")
	case Past, Compact:
		allowed = append(allowed, "OutOfRange")
	case Grant:
		allowed = append(allowed, "FailedPrecondition") // repeated by the client, it exists already
	}
	if op.Code != "" && !slices.Contains(allowed, op.Code) {
		c.violate("unexpected error", "%s: %v", op.Code, op)
	}
	if op.Kind == Past && op.Compacted && !c.compactionAsked(op.AtRev+1, op.Return) {
		c.violate("history lost", "nobody had compacted so far: %v", op)
	}
}

// compactionAsked tells whether somebody had asked before moment seq to compact at rev or above.
func (c *checker) compactionAsked(rev, seq int64) bool {
	for _, op := range c.compactions {
		if op.AtRev >= rev && op.Call < seq {
			return true
		}
	}
	return false
}

// expected are the events that a write that happened must have.
func (op *Op) expected() []Event {
	if op.Kind == Delete {
		return []Event{{Delete: true, KV: KV{Key: op.Key}}}
	}
	var out []Event
	for _, w := range op.Writes {
		out = append(out, Event{KV: KV{Key: w.Key, Value: w.Value, Lease: w.Lease}})
	}
	return out
}

// madeBy tells whether a write would leave these events. The order within a revision is that of the transaction.
func madeBy(op *Op, events []Event) bool {
	return slices.EqualFunc(op.expected(), events, func(a, b Event) bool {
		return a.Delete == b.Delete && a.KV.Key == b.KV.Key && a.KV.Value == b.KV.Value && a.KV.Lease == b.KV.Lease
	})
}

// claim says that an answered write made the revision of its header.
func (c *checker) claim(op *Op) {
	tx := c.log.at(op.Rev)
	switch {
	case tx == nil:
		c.violate("impossible revision", "%v", op)
	case tx.op != nil:
		c.violate("revision given twice", "%d: %v; %v", op.Rev, tx.op, op)
	case !madeBy(op, tx.events):
		c.violate("lost write", "revision %d is %s: %v", op.Rev, describe(tx.events), op)
	default:
		tx.op = op
		c.checkSight(tx, op)
	}
}

func (c *checker) checkSight(tx *transaction, op *Op) {
	if tx.seen < op.Call {
		c.violate("seen before it was asked for", "at moment %d: %v", tx.seen, op)
	}
}

// explain finds out who made a revision that no answer claims: a write without an answer, or the end of a lease.
func (c *checker) explain(rev int64) {
	tx := c.log.at(rev)
	if tx.op != nil || len(tx.events) == 0 {
		return
	}
	if !tx.events[0].Delete {
		c.explainWrite(rev, tx)
		return
	}
	if len(tx.events) == 1 {
		for _, op := range c.unknownDeletes {
			if op.Call < tx.seen && op.Key == tx.events[0].KV.Key {
				// Several may have done it. That none of them is charged with it lets a delete without an answer
				// happen twice unnoticed, which for deletes is the same as two deletes.
				c.report.Happened++
				return
			}
		}
	}
	c.explainExpiry(rev, tx)
}

func (c *checker) explainWrite(rev int64, tx *transaction) {
	op := c.byValue[tx.events[0].KV.Value]
	switch {
	case op == nil:
		c.violate("write out of nowhere", "revision %d: %s", rev, describe(tx.events))
	case op.Outcome == Refused:
		c.violate("refused write happened", "at revision %d: %v", rev, op)
	case op.Outcome == Done:
		c.violate("write happened twice", "or not when it was said: at revision %d: %v", rev, op)
	case c.happened[op]:
		c.violate("write happened twice", "again at revision %d: %v", rev, op)
	case !madeBy(op, tx.events):
		c.violate("torn write", "revision %d is %s: %v", rev, describe(tx.events), op)
	default:
		c.report.Happened++
		c.happened[op] = true
		tx.op = op
		c.checkSight(tx, op)
		if op.Kind == Swap {
			if kv, _ := c.log.state(op.Key, rev-1); kv.Mod != op.Expect {
				c.violate("wrong comparison", "mod revision of %s was %d before revision %d: %v", op.Key, kv.Mod, rev, op)
			}
		}
	}
}

// explainExpiry checks that deletes that no client made are those of one lease that was revoked or had run out.
func (c *checker) explainExpiry(rev int64, tx *transaction) {
	c.report.Expired++
	var lease int64
	for i, ev := range tx.events {
		kv, _ := c.log.state(ev.KV.Key, rev-1)
		if !ev.Delete || kv.Lease == 0 || (i > 0 && kv.Lease != lease) {
			c.violate("delete out of nowhere", "revision %d: %s", rev, describe(tx.events))
			return
		}
		lease = kv.Lease
	}
	for key := range c.log.versions {
		if kv, ok := c.log.state(key, rev); ok && kv.Lease == lease {
			c.violate("lease left a key", "lease %x ended at revision %d, but %s has it still", lease, rev, key)
		}
	}
	var alive time.Duration // the lease was promised to live until then
	for _, op := range c.leases[lease] {
		if op.Call > tx.seen {
			continue
		}
		switch {
		case op.Kind == Revoke && op.Outcome != Refused:
			return
		case op.Kind == Grant, op.Kind == Renew && op.Outcome == Done && op.Return < tx.seen:
			alive = max(alive, op.CallTime+time.Duration(op.TTL)*time.Second)
		}
	}
	if tx.seenAt < alive {
		c.violate("lease ended early", "lease %x was to live until %v, but its keys went at %v, revision %d",
			lease, alive, tx.seenAt, rev)
	}
}

// bound is a revision that is known to exist at a moment.
type bound struct {
	seq, rev int64
	why      string
	op       *Op
}

// checkOrder checks that revisions rise with real time: whatever was known before a request was made, through answers
// or watches, the request must be after.
func (c *checker) checkOrder() {
	var bounds []bound
	var ops []*Op
	for _, op := range c.history.Ops {
		if op.Outcome != Done || op.Rev == 0 || op.Kind == Grant || op.Kind == Renew || op.Kind == Revoke || op.Kind == Compact {
			continue
		}
		bounds = append(bounds, bound{seq: op.Return, rev: op.Rev, op: op})
		if op.Kind != Serial {
			ops = append(ops, op)
		}
	}
	for _, w := range c.history.Watches {
		for _, b := range w.Batches {
			bounds = append(bounds, bound{seq: b.Seq, rev: b.Rev, why: "a watcher of " + w.Watcher})
		}
	}
	slices.SortFunc(bounds, func(a, b bound) int { return cmp.Compare(a.seq, b.seq) })
	slices.SortFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	var known bound
	i := 0
	for _, op := range ops {
		for ; i < len(bounds) && bounds[i].seq < op.Call; i++ {
			if bounds[i].rev > known.rev {
				known = bounds[i]
			}
		}
		who := known.why
		if known.op != nil {
			who = known.op.String()
		}
		if op.Rev < known.rev {
			c.violate("stale", "revision %d was known before, from %s: %v", known.rev, who, op)
		} else if op.Rev == known.rev && op.changed() {
			c.violate("revision given twice", "%d was known before, from %s: %v", known.rev, who, op)
		}
	}
}

// changed tells whether an answered operation made a revision.
func (op *Op) changed() bool {
	return op.Kind == Put || op.Kind == Swap && op.Succeeded || op.Kind == Delete && op.Deleted > 0
}
