package integrity

import (
	"fmt"
	"slices"
	"strings"
)

// Member is one of those that are compared.
type Member struct {
	ID   uint64
	Name string
}

func (m Member) String() string {
	if m.Name == "" {
		return fmt.Sprintf("%x", m.ID)
	}
	return fmt.Sprintf("%s (%x)", m.Name, m.ID)
}

// Hash is a HashKV: of the history up to Revision, above CompactRevision.
type Hash struct {
	Sum                       uint32
	Revision, CompactRevision int64
}

// Answer is what one member says of its history.
type Answer struct {
	Member Member
	Hash
	// Short: the member has applied what the others have, and yet its history ends before the revision asked for.
	Short bool
	// Err: the member did not answer. Hash means nothing then.
	Err error
}

func (a Answer) String() string {
	switch {
	case a.Err != nil:
		return fmt.Sprintf("%s: no answer: %v", a.Member, a.Err)
	case a.Short:
		return fmt.Sprintf("%s: its history ends before revision %d", a.Member, a.Revision)
	}
	return fmt.Sprintf("%s: hash %08x up to revision %d, compacted at %d", a.Member, a.Sum, a.Revision, a.CompactRevision)
}

// Verdict is what comes of comparing answers.
type Verdict struct {
	Answers []Answer
	// Compared is how many answers could be compared: those of the compact revision that most members stand on.
	Compared int
	// Differing are the members outside the majority, by ID. Empty where all agree, and in a tie.
	Differing []Member
	// Healthy are the members of the majority; where all agree, all that were compared.
	Healthy []Member
	// Tie: answers differ, and no hash has a majority of the whole cluster.
	Tie bool
}

// Equal tells that no two compared histories differ.
func (v Verdict) Equal() bool { return !v.Tie && len(v.Differing) == 0 }

// Complete tells that every member could be compared.
func (v Verdict) Complete() bool { return v.Compared == len(v.Answers) }

// Detail is one line for each answer.
func (v Verdict) Detail() string {
	lines := make([]string, len(v.Answers))
	for i, a := range v.Answers {
		lines[i] = a.String()
	}
	return strings.Join(lines, "; ")
}

// content is what must be equal.
type content struct {
	sum   uint32
	short bool
}

// Judge compares the answers of all members of a cluster; those of members that could not be asked carry Err. A majority
// is one of the whole cluster, so that two members that are wrong alike cannot accuse the only other one that answers in
// a cluster of five.
func Judge(answers []Answer) Verdict {
	v := Verdict{Answers: answers}
	floor, ok := commonFloor(answers)
	if !ok {
		return v
	}
	groups := map[content][]Member{}
	for _, a := range answers {
		if a.Err != nil || !a.Short && a.CompactRevision != floor {
			continue
		}
		v.Compared++
		key := content{sum: a.Sum}
		if a.Short {
			key = content{short: true}
		}
		groups[key] = append(groups[key], a.Member)
	}
	if len(groups) == 1 {
		for _, members := range groups {
			v.Healthy = members
		}
		return v
	}
	for key, members := range groups {
		if len(members) > len(answers)/2 && !key.short {
			v.Healthy = members
		}
	}
	if v.Healthy == nil {
		v.Tie = true
		return v
	}
	for key, members := range groups {
		if members[0] != v.Healthy[0] {
			v.Differing = append(v.Differing, groups[key]...)
		}
	}
	slices.SortFunc(v.Differing, func(a, b Member) int { return strings.Compare(a.String(), b.String()) })
	return v
}

// commonFloor is the compact revision of most answers, the higher one of two that are as frequent.
func commonFloor(answers []Answer) (floor int64, ok bool) {
	count := map[int64]int{}
	for _, a := range answers {
		if a.Err == nil && !a.Short {
			count[a.CompactRevision]++
		}
	}
	best := 0
	for at, n := range count {
		if n > best || n == best && at > floor {
			floor, best = at, n
		}
	}
	return floor, best > 0
}
