package rule

import (
	"fmt"
	"strings"
)

// Rule is a condition that was understood. The zero value never matches.
type Rule struct {
	root node
}

// Matches tells whether the condition holds.
func (r Rule) Matches(f Figures) bool { return r.root != nil && r.root.holds(f) }

// String is the rule in its plainest form; parsing that gives the same rule.
func (r Rule) String() string {
	if r.root == nil {
		return "false"
	}
	var b strings.Builder
	r.root.write(&b, 0)
	return b.String()
}

// Error is a mistake in a rule.
type Error struct {
	Rule string
	// Column of the mistake in bytes, counted from 1.
	Column  int
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("rule %q, column %d: %s", e.Rule, e.Column, e.Message)
}

// Pointed shows the place: the rule, and below it a caret and what is wrong.
func (e *Error) Pointed() string {
	return e.Rule + "\n" + strings.Repeat(" ", e.Column-1) + "^ " + e.Message
}

// node is a part of a rule.
type node interface {
	holds(Figures) bool
	// write spells the node for a place where operators below a level need parentheses.
	write(b *strings.Builder, level int)
}

// How tightly operators bind.
const (
	levelOr = iota + 1
	levelAnd
	levelNot
)

type constant bool

func (c constant) holds(Figures) bool              { return bool(c) }
func (c constant) write(b *strings.Builder, _ int) { fmt.Fprint(b, bool(c)) }

type not struct{ inner node }

func (n not) holds(f Figures) bool { return !n.inner.holds(f) }
func (n not) write(b *strings.Builder, _ int) {
	b.WriteByte('!')
	if _, simple := n.inner.(comparison); simple {
		b.WriteByte('(')
		n.inner.write(b, 0)
		b.WriteByte(')')
		return
	}
	n.inner.write(b, levelNot)
}

type and struct{ left, right node }

func (n and) holds(f Figures) bool { return n.left.holds(f) && n.right.holds(f) }
func (n and) write(b *strings.Builder, level int) {
	writeBoth(b, level, levelAnd, n.left, " && ", n.right)
}

type or struct{ left, right node }

func (n or) holds(f Figures) bool { return n.left.holds(f) || n.right.holds(f) }
func (n or) write(b *strings.Builder, level int) {
	writeBoth(b, level, levelOr, n.left, " || ", n.right)
}

func writeBoth(b *strings.Builder, outer, own int, left node, operator string, right node) {
	if outer > own {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	left.write(b, own)
	b.WriteString(operator)
	right.write(b, own+1) // operators group from the left
}

// comparison of a figure with an amount, or with another figure.
type comparison struct {
	left     figure
	operator string
	right    func(Figures) float64
	text     string // of the right side
}

func (c comparison) holds(f Figures) bool {
	left, right := c.left.value(f), c.right(f)
	switch c.operator {
	case ">":
		return left > right
	case ">=":
		return left >= right
	case "<":
		return left < right
	case "<=":
		return left <= right
	case "==":
		return left == right
	}
	return left != right
}

func (c comparison) write(b *strings.Builder, _ int) {
	fmt.Fprintf(b, "%s %s %s", c.left.name, c.operator, c.text)
}
