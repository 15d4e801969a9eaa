package linearizability

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// step is what one operation does to one key: the input of the model.
type step struct {
	key    string
	kind   Kind
	write  *Write // put if it changes
	expect int64
	op     *Op // nil for the end of a lease
}

// answer is the output of the model.
type answer struct {
	rev     int64
	changed bool
	read    bool // kv is what was read; none where its mod revision is 0
	kv      KV
}

// keyState is the state of one key. It is a value.
type keyState struct {
	kv   KV    // zero where the key does not exist
	seen int64 // highest revision that an operation on this key has had
}

// stepKey is the sequential meaning of an operation on a key.
func stepKey(state, input, output any) (bool, any) {
	s, in, out := state.(keyState), input.(step), output.(answer)
	if out.rev < s.seen || (out.changed && out.rev == s.seen) {
		return false, s
	}
	if in.kind == Swap && in.op.Key == in.key && (s.kv.Mod == in.expect) != out.changed {
		return false, s
	}
	if out.read && out.kv != s.kv {
		return false, s
	}
	next := keyState{kv: s.kv, seen: out.rev}
	switch {
	case !out.changed:
		if in.kind == Delete && s.kv.Mod != 0 {
			return false, s
		}
	case in.kind == Delete:
		if s.kv.Mod == 0 {
			return false, s
		}
		next.kv = KV{}
	default:
		next.kv = KV{Key: in.key, Value: in.write.Value, Create: out.rev, Mod: out.rev, Version: 1, Lease: in.write.Lease}
		if s.kv.Mod != 0 {
			next.kv.Create, next.kv.Version = s.kv.Create, s.kv.Version+1
		}
	}
	return true, next
}

func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			var keys []string
			for _, op := range history {
				key := op.Input.(step).key
				if byKey[key] == nil {
					keys = append(keys, key)
				}
				byKey[key] = append(byKey[key], op)
			}
			slices.Sort(keys)
			var out [][]porcupine.Operation
			for _, key := range keys {
				out = append(out, byKey[key])
			}
			return out
		},
		Init:              func() any { return keyState{} },
		Step:              stepKey,
		DescribeOperation: func(input, output any) string { return describeStep(input.(step), output.(answer)) },
		DescribeState: func(state any) string {
			s := state.(keyState)
			return fmt.Sprintf("%s=%q mod %d version %d, revision %d", s.kv.Key, s.kv.Value, s.kv.Mod, s.kv.Version, s.seen)
		},
	}
}

func describeStep(in step, out answer) string {
	s := fmt.Sprintf("%s %s", in.kind, in.key)
	if in.op == nil {
		s = "end of the lease of " + in.key
	}
	if in.kind == Swap {
		s += fmt.Sprintf(" if mod is %d", in.expect)
	}
	switch {
	case out.changed && in.write != nil:
		s += " := " + in.write.Value
	case out.read && out.kv.Mod == 0:
		s += " -> nothing"
	case out.read:
		s += fmt.Sprintf(" -> %s mod %d", out.kv.Value, out.kv.Mod)
	case in.kind == Delete && !out.changed:
		s += " -> nothing to delete"
	}
	return s + fmt.Sprintf(" @%d", out.rev)
}

// checkKeysFor bounds porcupine's search. Revisions leave it little to try, so that it takes milliseconds.
const checkKeysFor = time.Minute

// checkKeys has porcupine look for an order of the operations on each key.
func (c *checker) checkKeys() {
	c.report.model = model()
	result, info := porcupine.CheckOperationsVerbose(c.report.model, c.keyOperations(), checkKeysFor)
	c.report.info = info
	switch result {
	case porcupine.Illegal:
		c.violate("not linearizable", "porcupine finds no order; see the picture")
	case porcupine.Unknown:
		c.violate("undecided", "porcupine found neither an order nor that there is none within %v", checkKeysFor)
	}
}

// keyOperations turns the history into operations on single keys.
func (c *checker) keyOperations() []porcupine.Operation {
	var out []porcupine.Operation
	add := func(client int, call, ret int64, in step, a answer) {
		out = append(out, porcupine.Operation{ClientId: client, Call: call, Return: ret, Input: in, Output: a})
	}
	for _, op := range c.history.Ops {
		if op.Outcome != Done {
			continue
		}
		switch op.Kind {
		case Get:
			for _, key := range c.keysOf(op) {
				add(op.Client, op.Call, op.Return, step{key: key, kind: Get, op: op}, readAnswer(op, key))
			}
		case Delete:
			add(op.Client, op.Call, op.Return, step{key: op.Key, kind: Delete, op: op}, answer{rev: op.Rev, changed: op.Deleted > 0})
		case Put:
			c.addWrites(op, op.Rev, op.Return, add)
		case Swap:
			if op.Succeeded {
				c.addWrites(op, op.Rev, op.Return, add)
			} else {
				in := step{key: op.Key, kind: Swap, expect: op.Expect, op: op}
				add(op.Client, op.Call, op.Return, in, readAnswer(op, op.Key))
			}
		}
	}
	nobody := 0 // the row of the picture for what no client was answered about
	for _, op := range c.history.Ops {
		nobody = max(nobody, op.Client+1)
	}
	for i := range c.log.revisions {
		tx := &c.log.revisions[i]
		rev := c.log.first + int64(i)
		switch {
		case tx.op != nil && tx.op.Outcome == Unknown:
			c.addWrites(tx.op, rev, tx.seen, add) // it had happened when it was seen
		case tx.op == nil:
			for _, ev := range tx.events {
				if ev.Delete {
					add(nobody, 0, tx.seen, step{key: ev.KV.Key, kind: Delete}, answer{rev: rev, changed: true})
				}
			}
		}
	}
	return out
}

func (c *checker) addWrites(op *Op, rev, ret int64, add func(int, int64, int64, step, answer)) {
	for i := range op.Writes {
		in := step{key: op.Writes[i].Key, kind: op.Kind, write: &op.Writes[i], expect: op.Expect, op: op}
		add(op.Client, op.Call, ret, in, answer{rev: rev, changed: true})
	}
}

// keysOf returns the keys that a read tells about: for one of all keys, those that were ever written.
func (c *checker) keysOf(op *Op) []string {
	if op.Key != "" {
		return []string{op.Key}
	}
	var keys []string
	for key := range c.log.versions {
		keys = append(keys, key)
	}
	return keys
}

func readAnswer(op *Op, key string) answer {
	a := answer{rev: op.Rev, read: true}
	for _, kv := range op.KVs {
		if kv.Key == key {
			a.kv = kv
		}
	}
	return a
}
