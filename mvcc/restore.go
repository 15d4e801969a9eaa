package mvcc

import (
	"fmt"
	"hash/maphash"
	"runtime"
	"sync"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/index"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
	"github.com/upkeep-kv/upkeep/proto/mvccpb"
)

// Keys of bucket `meta` that say how far compaction has come. Values are
// 17-byte revisions with sub 0.
const (
	scheduledCompactKey = "scheduledCompactRev"
	finishedCompactKey  = "finishedCompactRev"
)

// restoreBatch is how many records travel together to an index loader.
const restoreBatch = 1024

// restore rebuilds index, revision and floor from the backend, and queues the
// compaction that had not finished. The caller keeps readers away.
func (s *Store) restore() error {
	view := s.backend.View()
	defer view.Close()
	scheduled, finished, err := compactRevisions(view)
	if err != nil {
		return err
	}
	idx, last, err := loadIndex(view)
	if err != nil {
		return err
	}
	s.index = idx
	s.revision.Store(max(last, finished, scheduled, 1))
	s.pins.rebase(max(finished, scheduled))
	if scheduled > finished {
		// What it had deleted cannot be hashed any more, so this one gives no hash.
		s.compactor.add(&compaction{rev: scheduled, previous: finished, resumed: true})
	}
	return nil
}

// compactRevisions returns the committed marks of compaction, -1 for none.
func compactRevisions(view *backend.View) (scheduled, finished int64, err error) {
	scheduled, finished = -1, -1
	err = view.ScanBucket(backend.Meta, nil, nil, func(k, v []byte) error {
		mark := &scheduled
		switch string(k) {
		case scheduledCompactKey:
		case finishedCompactKey:
			mark = &finished
		default:
			return nil
		}
		rev, _, err := revision.ParseKey(v)
		if err != nil {
			return fmt.Errorf("%w: meta key %s: %w", ErrCorrupt, k, err)
		}
		*mark = rev.Main
		return nil
	})
	return scheduled, finished, err
}

// record is what the index wants to know of one entry of bucket `key`. The key
// aliases the view's memory.
type record struct {
	key                     []byte
	rev                     revision.Revision
	created, version, lease int64
	deletion                bool
}

// loadIndex reads bucket `key` once, in revision order, and deals its records
// out to loaders by key, so that one core reads and decodes while the others
// file. It also returns the largest main revision, 0 for none.
func loadIndex(view *backend.View) (idx *index.Index, last int64, err error) {
	loaders := make([]*index.Loader, max(2, runtime.GOMAXPROCS(0)))
	feeds := make([]chan []record, len(loaders))
	free := make(chan []record, 4*len(loaders))
	var loading sync.WaitGroup
	for i := range loaders {
		loaders[i], feeds[i] = index.NewLoader(), make(chan []record, 2)
		loading.Go(func() { loadFrom(loaders[i], feeds[i], free) })
	}
	last, err = deal(view, feeds, free)
	for _, feed := range feeds {
		close(feed)
	}
	loading.Wait()
	if err != nil {
		return nil, 0, err
	}
	return index.Build(loaders...), last, nil
}

func loadFrom(l *index.Loader, feed <-chan []record, free chan<- []record) {
	for batch := range feed {
		for i := range batch {
			if r := &batch[i]; r.deletion {
				l.Delete(r.key, r.rev)
			} else {
				l.Put(r.key, r.rev, r.created, r.version, r.lease)
			}
		}
		select {
		case free <- batch[:0]:
		default:
		}
	}
}

func deal(view *backend.View, feeds []chan []record, free <-chan []record) (last int64, err error) {
	batches := make([][]record, len(feeds))
	seed := maphash.MakeSeed()
	var kv mvccpb.KeyValue
	err = view.Scan(nil, nil, func(k, v []byte) error {
		rev, deletion, err := revision.ParseKey(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		last = rev.Main
		if len(v) == 0 {
			// Left by a restore that bumped the revision: it only holds the number.
			return nil
		}
		kv.Key, kv.CreateRevision, kv.Version, kv.Lease = nil, 0, 0, 0
		if err := kv.UnmarshalVTUnsafe(v); err != nil {
			return fmt.Errorf("%w: revision %v: %w", ErrCorrupt, rev, err)
		}
		if !deletion && (kv.Version <= 0 || kv.CreateRevision <= 0) {
			return fmt.Errorf("%w: revision %v: version %d, created %d", ErrCorrupt, rev, kv.Version, kv.CreateRevision)
		}
		i := int(maphash.Bytes(seed, kv.Key) % uint64(len(feeds)))
		batches[i] = append(batches[i], record{kv.Key, rev, kv.CreateRevision, kv.Version, kv.Lease, deletion})
		if len(batches[i]) < restoreBatch {
			return nil
		}
		feeds[i] <- batches[i]
		select {
		case batches[i] = <-free:
		default:
			batches[i] = make([]record, 0, restoreBatch)
		}
		return nil
	})
	for i, batch := range batches {
		feeds[i] <- batch
	}
	return last, err
}

// encodeRevision is the value of a compaction mark.
func encodeRevision(main int64) []byte {
	return revision.AppendKey(make([]byte, 0, revision.Len), revision.Revision{Main: main}, false)
}
