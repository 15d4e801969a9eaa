package backup

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
)

// Retention is what is kept. A zero field limits nothing.
type Retention struct {
	// Count is how many full backups are kept, each with the incremental ones that build on it. One that is damaged does
	// not count.
	Count int
	// Age is how far back one can go at least: what is older than the newest full backup of that age goes.
	Age time.Duration
	// Bytes is how large the repository may be.
	Bytes int64
}

// Decision is what becomes of one backup.
type Decision struct {
	Backup *Manifest
	Remove bool
	Reason string
}

// family is a full backup with all that builds on it. Its members stay and go together, the incremental ones first.
type family struct {
	members []*Manifest // in the order in which they were taken; the first is the full one
	broken  bool
	bytes   int64
}

func (f *family) full() *Manifest { return f.members[0] }

// good: it can be restored, as far as is known.
func (f *family) good() bool { return f.full().Good() && !f.broken }

// Retain decides what a repository is to keep, for each cluster that is in it by itself, in the order in which it may be
// carried out: what builds on something goes before it.
//
// The unit is a full backup with the incremental ones that build on it. The newest of those that passed its verification
// is kept whatever the limits say; where none has, the newest. Incremental backups whose full one is missing are of no use
// and go.
func Retain(inventory *Inventory, now time.Time, retention Retention) []Decision {
	clusters := make(map[HexID][]*family)
	var decisions []Decision
	var order []HexID
	families, orphans := familiesOf(inventory)
	for _, f := range families {
		id := f.full().ClusterID
		if clusters[id] == nil {
			order = append(order, id)
		}
		clusters[id] = append(clusters[id], f)
	}
	for _, m := range slices.Backward(orphans) {
		decisions = append(decisions, Decision{m, true, "a backup that it builds on is missing"})
	}
	slices.Sort(order)
	for _, id := range order {
		decisions = append(decisions, retainCluster(clusters[id], now, retention)...)
	}
	return decisions
}

func familiesOf(inventory *Inventory) (families []*family, orphans []*Manifest) {
	byRoot := make(map[string]*family)
	for _, m := range inventory.Backups {
		root := m
		for hops := 0; root != nil && root.Kind != Full && hops <= len(inventory.Backups); hops++ {
			root = inventory.Find(root.Parent)
		}
		if root == nil || root.Kind != Full {
			orphans = append(orphans, m)
			continue
		}
		f := byRoot[root.ID]
		if f == nil {
			f = &family{members: []*Manifest{root}}
			byRoot[root.ID] = f
			families = append(families, f)
		}
		if m != root {
			f.members = append(f.members, m)
		}
		f.bytes += m.Object.SizeBytes
		f.broken = f.broken || m == root && inventory.Broken[m.ID]
	}
	slices.SortStableFunc(families, func(a, b *family) int { return a.full().TakenAt.Compare(b.full().TakenAt) })
	return families, orphans
}

func retainCluster(families []*family, now time.Time, retention Retention) (decisions []Decision) {
	safe := len(families) - 1
	safeReason := "kept: the newest full backup, and none has been verified"
	if i := lastIndex(families, (*family).good); i >= 0 {
		safe, safeReason = i, "kept: the newest full backup that was verified"
	}
	// With an age, the newest full backup that is as old is where going back that far begins.
	begin := 0
	if retention.Age > 0 {
		begin = max(0, lastIndex(families, func(f *family) bool { return now.Sub(f.full().TakenAt) >= retention.Age && !f.broken }))
	}
	var bytes int64
	kept := 0
	reasons := make([]string, len(families))
	full := false // the repository is
	for i, f := range slices.Backward(families) {
		reason := ""
		total := bytes + f.bytes
		switch {
		case i == safe:
		case retention.Count > 0 && kept >= retention.Count:
			reason = fmt.Sprintf("keep-count is %d, and there are as many newer full backups", retention.Count)
		case i < begin:
			reason = fmt.Sprintf("keep-age is %s, and a newer full backup reaches back that far", retention.Age)
		case full || retention.Bytes > 0 && total > retention.Bytes:
			full = true // what is older goes too, even if it is small: no holes
			bytes = total
			reason = fmt.Sprintf("keep-bytes is %s, and with it there would be %s",
				humanize.IBytes(uint64(retention.Bytes)), humanize.IBytes(uint64(total)))
		}
		reasons[i] = reason
		if reason == "" {
			bytes = total
			if !f.broken && !f.full().Bad() {
				kept++
			}
		}
	}
	for i, f := range families {
		decisions = append(decisions, f.decisions(reasons[i], i == safe, safeReason)...)
	}
	return decisions
}

func (f *family) decisions(reason string, safe bool, safeReason string) (decisions []Decision) {
	if reason == "" {
		reason = "kept: within the limits"
		if safe {
			reason = safeReason
		}
		for i, m := range f.members {
			if i > 0 {
				reason = "kept with " + f.full().ID
			}
			decisions = append(decisions, Decision{m, false, reason})
		}
		return decisions
	}
	for i, m := range slices.Backward(f.members) {
		why := reason
		if i > 0 {
			why = "goes with " + f.full().ID
		}
		decisions = append(decisions, Decision{m, true, why})
	}
	return decisions
}

func lastIndex(families []*family, is func(*family) bool) int {
	for i, f := range slices.Backward(families) {
		if is(f) {
			return i
		}
	}
	return -1
}

// Prune removes what Retain says, of one cluster or, with 0, of all, and what runs that were cut off have left. It
// returns all decisions; with dryRun nothing is removed.
func (r *Repository) Prune(ctx context.Context, clusterID uint64, retention Retention, dryRun bool) ([]Decision, error) {
	inventory, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	decisions := slices.DeleteFunc(Retain(inventory, now, retention), func(d Decision) bool {
		return clusterID != 0 && uint64(d.Backup.ClusterID) != clusterID
	})
	if dryRun {
		return decisions, nil
	}
	for _, d := range decisions {
		if !d.Remove {
			continue
		}
		if err := r.Remove(ctx, d.Backup); err != nil {
			return decisions, fmt.Errorf("removing backup %s: %w", d.Backup.ID, err)
		}
	}
	return decisions, r.Sweep(ctx, inventory, now)
}

// Totals are the figures of a repository, or of one cluster in it.
type Totals struct {
	Backups int
	Bytes   int64
	// NewestGood is when the newest backup was taken that was verified, or that continues one that was, zero without one.
	NewestGood time.Time
	NewestFull time.Time
	Newest     time.Time
}

// Totals adds up the backups of a cluster, 0 for all.
func (i *Inventory) Totals(clusterID uint64) (t Totals) {
	for _, m := range i.Backups {
		if clusterID != 0 && uint64(m.ClusterID) != clusterID || i.Broken[m.ID] {
			continue
		}
		t.Backups++
		t.Bytes += m.Object.SizeBytes
		t.Newest = later(t.Newest, m.TakenAt)
		if m.Kind == Full {
			t.NewestFull = later(t.NewestFull, m.TakenAt)
		}
		if chain, err := i.chain(m); err == nil && !slices.ContainsFunc(chain, func(m *Manifest) bool { return !m.Good() }) {
			t.NewestGood = later(t.NewestGood, m.TakenAt)
		}
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
