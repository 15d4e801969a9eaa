package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/snapshot"
)

// ErrNotHeld is the class of errors about a moment that no backup reaches.
var ErrNotHeld = errors.New("backup: not held")

// Target is what to go back to: a moment, or a revision, or, with neither, the newest that there is.
type Target struct {
	At       time.Time
	Revision int64
	// ClusterID chooses where a repository holds backups of several; 0 accepts the only one.
	ClusterID uint64
}

// RestorePlan says how a moment is reached.
type RestorePlan struct {
	repository *Repository
	// Chain is the full backup and the incremental ones to apply, in order.
	Chain []*Manifest
	// Revision that the keys will be as of; the last of the chain may reach further.
	Revision int64
	// Known is the newest moment, up to the one asked for, at which Revision is known to have been current; Next is the
	// next one that is known, zero if there is none. Both are zero if a revision was asked for.
	Known, Next time.Time
}

// PlanRestore finds the backups that a moment can be restored from: the newest full one at or before it, and the
// incremental ones up to it. Where there is none before, a later full one does that still holds the revision. Errors:
// ErrNotHeld, which names what is held.
func (r *Repository) PlanRestore(ctx context.Context, target Target) (*RestorePlan, error) {
	inventory, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	return planRestore(inventory, target, r)
}

func planRestore(inventory *Inventory, target Target, r *Repository) (*RestorePlan, error) {
	place := ""
	if r != nil {
		place = r.Location()
	}
	if len(inventory.Backups) == 0 {
		return nil, fmt.Errorf("%w: there is no backup in %s", ErrNotHeld, place)
	}
	h, err := holdingsOf(inventory, target.ClusterID)
	if err != nil {
		return nil, err
	}
	plan := &RestorePlan{repository: r}
	var best *route
	switch {
	case target.Revision != 0:
		plan.Revision = target.Revision
		best = h.routeTo(target.Revision)
	case !target.At.IsZero():
		best = h.routeAt(target.At, plan)
	case len(h.routes) > 0:
		best = slices.MaxFunc(h.routes, func(a, b *route) int { return a.last().TakenAt.Compare(b.last().TakenAt) })
		plan.Revision, plan.Known = best.last().ToRevision, best.last().TakenAt
	}
	if best == nil {
		return nil, h.refuse(target, place)
	}
	plan.Chain = best.chain
	return plan, nil
}

// route is a backup with what it builds on.
type route struct{ chain []*Manifest }

func (r *route) full() *Manifest { return r.chain[0] }
func (r *route) last() *Manifest { return r.chain[len(r.chain)-1] }

// holdings is what can be restored of one cluster.
type holdings struct {
	routes   []*route
	problems []string
}

func holdingsOf(inventory *Inventory, clusterID uint64) (*holdings, error) {
	clusters := make(map[HexID]bool)
	h := &holdings{problems: slices.Clone(inventory.Problems)}
	for _, m := range inventory.Backups {
		clusters[m.ClusterID] = true
		if clusterID != 0 && uint64(m.ClusterID) != clusterID {
			continue
		}
		if m.Bad() {
			h.problems = append(h.problems, fmt.Sprintf("backup %s did not pass its verification: %s", m.ID, m.Verification.Error))
			continue
		}
		chain, err := inventory.chain(m)
		if err != nil {
			h.problems = append(h.problems, err.Error())
			continue
		}
		if !slices.ContainsFunc(chain, (*Manifest).Bad) {
			h.routes = append(h.routes, &route{chain})
		}
	}
	if clusterID == 0 && len(clusters) > 1 {
		var ids []string
		for id := range clusters {
			ids = append(ids, id.String())
		}
		slices.Sort(ids)
		return nil, fmt.Errorf("%w: the repository holds backups of clusters %s; say which with --cluster-id",
			ErrOtherCluster, strings.Join(ids, ", "))
	}
	return h, nil
}

// routeTo prefers what a full backup before rev leads to, then the newest full backup, then the shortest way.
func (h *holdings) routeTo(rev int64) *route {
	return best(h.routes, func(r *route) bool { return r.last().holds(rev) }, func(a, b *route) int {
		return cmp.Or(
			preferTrue(a.full().ToRevision <= rev, b.full().ToRevision <= rev),
			b.full().TakenAt.Compare(a.full().TakenAt),
			cmp.Compare(len(a.chain), len(b.chain)))
	})
}

// routeAt looks for the newest sample up to a moment. The same revision can be reached in several ways.
func (h *holdings) routeAt(at time.Time, plan *RestorePlan) *route {
	newest := time.Time{}
	for _, r := range h.routes {
		m := r.last()
		if newest.Before(m.TakenAt) {
			newest = m.TakenAt
		}
		for _, s := range m.Samples {
			switch {
			case s.Time.After(at):
				if plan.Next.IsZero() || s.Time.Before(plan.Next) {
					plan.Next = s.Time
				}
			case s.Time.After(plan.Known) || s.Time.Equal(plan.Known) && s.Revision > plan.Revision:
				plan.Known, plan.Revision = s.Time, s.Revision
			}
		}
	}
	if at.After(newest) || plan.Known.IsZero() {
		return nil
	}
	holds := func(r *route) bool {
		m := r.last()
		return m.holds(plan.Revision) && slices.ContainsFunc(m.Samples, func(s Sample) bool {
			return s.Revision == plan.Revision && s.Time.Equal(plan.Known)
		})
	}
	prefer := func(a, b *route) int {
		return cmp.Or(
			preferTrue(!a.full().TakenAt.After(at), !b.full().TakenAt.After(at)),
			b.full().TakenAt.Compare(a.full().TakenAt),
			cmp.Compare(len(a.chain), len(b.chain)))
	}
	if r := best(h.routes, holds, prefer); r != nil {
		return r
	}
	// The sample stands in a backup that begins with this revision: what comes before it ends there.
	return best(h.routes, func(r *route) bool { return r.last().holds(plan.Revision) }, prefer)
}

func preferTrue(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func best(routes []*route, fits func(*route) bool, prefer func(a, b *route) int) (found *route) {
	for _, r := range routes {
		if fits(r) && (found == nil || prefer(r, found) < 0) {
			found = r
		}
	}
	return found
}

// refuse says what is held instead.
func (h *holdings) refuse(target Target, place string) error {
	asked := fmt.Sprintf("revision %d", target.Revision)
	if target.Revision == 0 {
		asked = target.At.UTC().Format(time.RFC3339)
	}
	held := "nothing that can be restored"
	if len(h.routes) > 0 {
		held = h.String()
	}
	err := fmt.Errorf("%w: %s was asked for, but %s holds %s", ErrNotHeld, asked, place, held)
	if len(h.problems) > 0 {
		err = fmt.Errorf("%w; there are problems: %s", err, strings.Join(h.problems, "; "))
	}
	return err
}

// String lists the moments and the ranges of revisions that can be restored.
func (h *holdings) String() string {
	first, last := time.Time{}, time.Time{}
	type span struct{ from, to int64 }
	var spans []span
	for _, r := range h.routes {
		m := r.last()
		if start := m.Samples[0].Time; first.IsZero() || start.Before(first) {
			first = start
		}
		if last.Before(m.TakenAt) {
			last = m.TakenAt
		}
		spans = append(spans, span{m.FromRevision, m.ToRevision})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	merged := spans[:1]
	for _, s := range spans[1:] {
		if end := &merged[len(merged)-1]; s.from <= end.to+1 {
			end.to = max(end.to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	var ranges []string
	for _, s := range merged {
		ranges = append(ranges, fmt.Sprintf("%d to %d", s.from, s.to))
	}
	return fmt.Sprintf("%s to %s, revisions %s", first.UTC().Format(time.RFC3339), last.UTC().Format(time.RFC3339),
		strings.Join(ranges, ", "))
}

// assemblySuffix is added to a data directory for the directory that its database is assembled in.
const assemblySuffix = ".assembly"

// Run fetches and assembles the backups beside the data directory, compares the result with what the member had, and
// restores it as snapshot.Restore does; SnapshotPath, ToRevision and SkipHashCheck of the options are set here. Whatever
// happens in between, the data directory is not there or whole, and running it again starts over.
func (p *RestorePlan) Run(ctx context.Context, options snapshot.RestoreOptions) (result snapshot.RestoreResult, err error) {
	if options.DataDir == "" {
		options.DataDir = cmp.Or(options.Name, "default") + ".etcd"
	}
	if err := snapshot.Check(options); err != nil {
		return result, err
	}
	dir := filepath.Clean(options.DataDir) + assemblySuffix
	if err := os.RemoveAll(dir); err != nil {
		return result, err
	}
	if err := checkRoom(dir, roomFor(p.Chain)); err != nil {
		return result, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "db")
	if err := p.repository.assemble(ctx, p.Chain, p.Revision, path); err != nil {
		return result, err
	}
	if err := compareHash(ctx, p.Chain[len(p.Chain)-1], path); err != nil {
		return result, err
	}
	options.SnapshotPath, options.ToRevision, options.SkipHashCheck = path, p.Revision, true
	return snapshot.Restore(ctx, options)
}
