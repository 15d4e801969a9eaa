package rule

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	maxBytes = 1024
	// maxDepth bounds how deep parentheses and negations go.
	maxDepth = 64
)

// Parse reads a rule. Its errors are of type *Error.
func Parse(text string) (Rule, error) {
	p := &parser{text: text}
	if len(text) > maxBytes {
		return Rule{}, p.fault(maxBytes, "a rule is at most %d bytes long", maxBytes)
	}
	if err := p.scan(); err != nil {
		return Rule{}, err
	}
	root, err := p.or()
	if err != nil {
		return Rule{}, err
	}
	if t := p.peek(); t.kind != end {
		return Rule{}, p.fault(t.at, "expected && or ||, found %s", t)
	}
	return Rule{root: root}, nil
}

type kind int

const (
	end kind = iota
	word
	number // with its unit, if it has one
	operator
)

// token is one word of a rule and where it begins.
type token struct {
	kind kind
	text string
	at   int
}

func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return strconv.Quote(t.text)
}

type parser struct {
	text   string
	tokens []token
	next   int
	depth  int
}

func (p *parser) fault(at int, format string, args ...any) *Error {
	return &Error{Rule: p.text, Column: at + 1, Message: fmt.Sprintf(format, args...)}
}

func (p *parser) peek() token { return p.tokens[p.next] }

func (p *parser) take() token {
	t := p.tokens[p.next]
	if t.kind != end {
		p.next++
	}
	return t
}

// takeIf takes the next token if it is this operator.
func (p *parser) takeIf(text string) bool {
	if t := p.peek(); t.kind == operator && t.text == text {
		p.next++
		return true
	}
	return false
}

func (p *parser) scan() error {
	for at := 0; at < len(p.text); {
		c := p.text[at]
		switch {
		case c == ' ' || c == '\t' || c == '\n':
			at++
		case isLetter(c):
			at = p.add(word, at, func(c byte) bool { return isLetter(c) || isDigit(c) })
		case isDigit(c):
			at = p.add(number, at, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '.' || c == '%' })
		default:
			text := operatorAt(p.text[at:])
			if text == "" {
				return p.fault(at, "%q means nothing here", firstRune(p.text[at:]))
			}
			p.tokens = append(p.tokens, token{operator, text, at})
			at += len(text)
		}
	}
	p.tokens = append(p.tokens, token{kind: end, at: len(p.text)})
	return nil
}

func firstRune(s string) string {
	for _, r := range s {
		return string(r)
	}
	return ""
}

func (p *parser) add(k kind, from int, belongs func(byte) bool) (to int) {
	to = from
	for to < len(p.text) && belongs(p.text[to]) {
		to++
	}
	p.tokens = append(p.tokens, token{k, p.text[from:to], from})
	return to
}

func isLetter(c byte) bool { return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

func operatorAt(s string) string {
	for _, o := range []string{"&&", "||", ">=", "<=", "==", "!=", ">", "<", "!", "(", ")"} {
		if strings.HasPrefix(s, o) {
			return o
		}
	}
	return ""
}

func (p *parser) or() (node, error) {
	left, err := p.and()
	for err == nil && p.takeIf("||") {
		var right node
		if right, err = p.and(); err == nil {
			left = or{left, right}
		}
	}
	return left, err
}

func (p *parser) and() (node, error) {
	left, err := p.not()
	for err == nil && p.takeIf("&&") {
		var right node
		if right, err = p.not(); err == nil {
			left = and{left, right}
		}
	}
	return left, err
}

func (p *parser) not() (node, error) {
	t := p.peek()
	if p.depth++; p.depth > maxDepth {
		return nil, p.fault(t.at, "nested too deeply")
	}
	defer func() { p.depth-- }()
	switch {
	case p.takeIf("!"):
		inner, err := p.not()
		return not{inner}, err
	case p.takeIf("("):
		inner, err := p.or()
		if err == nil && !p.takeIf(")") {
			err = p.fault(p.peek().at, "expected ), for the ( in column %d, found %s", t.at+1, p.peek())
		}
		return inner, err
	case t.kind == word && (t.text == "true" || t.text == "false"):
		p.take()
		return constant(t.text == "true"), nil
	}
	return p.comparison()
}

func (p *parser) comparison() (node, error) {
	t := p.take()
	if t.kind != word {
		return nil, p.fault(t.at, "expected a figure (%s), found %s", nameList(), t)
	}
	left, ok := lookUp(t.text)
	if !ok {
		return nil, p.fault(t.at, "there is no figure %q; there are %s", t.text, nameList())
	}
	op := p.take()
	if op.kind != operator || !slices.Contains([]string{">", ">=", "<", "<=", "==", "!="}, op.text) {
		return nil, p.fault(op.at, "expected a comparison (> >= < <= == !=) after %s, found %s", left.name, op)
	}
	c := comparison{left: left, operator: op.text}
	right := p.take()
	var err error
	switch right.kind {
	case word:
		other, ok := lookUp(right.text)
		switch {
		case !ok:
			return nil, p.fault(right.at, "there is no figure %q; there are %s", right.text, nameList())
		case other.dimension != left.dimension:
			return nil, p.fault(right.at, "%s and %s cannot be compared: one is in bytes, the other a percentage", left.name, other.name)
		}
		c.right, c.text = other.value, other.name
	case number:
		var value float64
		value, c.text, err = p.amount(left, right)
		c.right = func(Figures) float64 { return value }
	default:
		return nil, p.fault(right.at, "expected an amount or a figure after %s, found %s", op.text, right)
	}
	return c, err
}

// amount reads a number with its unit, which must fit the figure on its left.
func (p *parser) amount(left figure, t token) (value float64, text string, err error) {
	digits := len(t.text)
	for i := range len(t.text) {
		if c := t.text[i]; !isDigit(c) && c != '.' {
			digits = i
			break
		}
	}
	value, parseErr := strconv.ParseFloat(t.text[:digits], 64)
	if parseErr != nil {
		return 0, "", p.fault(t.at, "%q is no number", t.text[:digits])
	}
	name := t.text[digits:]
	if rest := p.peek(); name == "" && rest.kind == word && slices.ContainsFunc(units(), func(u unit) bool { return u.name == rest.text }) {
		name = p.take().text // "100 MiB"
	}
	wanted := "a unit such as MiB"
	if left.dimension == percentOf {
		wanted = "a %"
	}
	at := slices.IndexFunc(units(), func(u unit) bool { return u.name == name })
	switch {
	case name == "" && value == 0:
		return 0, "0", nil
	case name == "":
		return 0, "", p.fault(t.at+digits, "%s needs %s after %s", left.name, wanted, t.text)
	case at < 0:
		return 0, "", p.fault(t.at+digits, "there is no unit %q; there are B, KiB, MiB, GiB, TiB, KB, MB, GB, TB and %%", name)
	case units()[at].dimension != left.dimension:
		return 0, "", p.fault(t.at+digits, "%s is not measured in %s; it needs %s", left.name, name, wanted)
	}
	return value * units()[at].factor, t.text[:digits] + name, nil
}
