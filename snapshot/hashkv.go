package snapshot

import (
	"context"
	"errors"
	"hash/crc32"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// Errors of HashKV, with the texts of the call of that name.
var (
	ErrCompacted      = errors.New("mvcc: required revision has been compacted")
	ErrFutureRevision = errors.New("mvcc: required revision is a future revision")
)

// KVHash is the hash of a history. The JSON is etcdutl's.
type KVHash struct {
	Hash            uint32 `json:"hash"`
	HashRevision    int64  `json:"hashRevision"`
	CompactRevision int64  `json:"compactRevision"`
}

// HashKV hashes the history in a file up to a revision, 0 for the newest, as a server with that file does for the call
// of the same name. Unlike etcdutl it only reads: a scheduled compaction is taken into account but not carried out.
// Errors: ErrCompacted, ErrFutureRevision, ErrNotDatabase.
func HashKV(ctx context.Context, path string, atRevision int64, options FileOptions) (result KVHash, err error) {
	err = view(ctx, path, options, func(f *backend.File) error {
		history, err := historyOf(f)
		if err != nil {
			return err
		}
		if atRevision == 0 {
			atRevision = history.Current
		}
		switch {
		case atRevision < history.Compacted:
			return ErrCompacted
		case atRevision > history.Current:
			return ErrFutureRevision
		}
		result = KVHash{HashRevision: atRevision, CompactRevision: history.Compacted}
		result.Hash, err = hashHistory(ctx, f, atRevision, history.Compacted)
		return err
	})
	if err != nil {
		return KVHash{}, err
	}
	return result, nil
}

// HashKVAt hashes the history in a file as a member does that holds the same and has compacted it at floor, -1 for not at
// all, and has finished with that. Nothing that such a compaction would keep may be missing in the file. Errors: ErrFutureRevision, ErrNotDatabase.
func HashKVAt(ctx context.Context, path string, rev, floor int64, options FileOptions) (KVHash, error) {
	result := KVHash{HashRevision: rev, CompactRevision: floor}
	err := view(ctx, path, options, func(f *backend.File) error {
		history, err := historyOf(f)
		if err != nil {
			return err
		}
		if rev > history.Current {
			return ErrFutureRevision
		}
		newest, err := newestEntries(ctx, f, rev)
		if err == nil && len(newest) == 0 {
			// Then the hash leaves nothing out, and so depends on what the compaction has deleted.
			newest, err = newestEntries(ctx, f, floor)
		}
		if err != nil {
			return err
		}
		result.Hash, err = sumHistory(ctx, f, rev, floor, upTo(floor, newest))
		return err
	})
	return result, err
}

// hashHistory leaves out what a compaction at floor may or may not have deleted yet, so that the hash does not depend
// on how far it has come: up to floor, everything that a compaction at rev would not keep.
func hashHistory(ctx context.Context, f *backend.File, rev, floor int64) (uint32, error) {
	newest, err := newestEntries(ctx, f, rev)
	if err != nil {
		return 0, err
	}
	if len(newest) == 0 {
		return sumHistory(ctx, f, rev, floor, nil)
	}
	return sumHistory(ctx, f, rev, floor, upTo(floor, newest))
}

func upTo(floor int64, newest map[string]revision.Revision) map[revision.Revision]struct{} {
	kept := make(map[revision.Revision]struct{})
	for _, r := range newest {
		if r.Main <= floor {
			kept[r] = struct{}{}
		}
	}
	return kept
}

// newestEntries are those that the keys which exist at rev have there.
func newestEntries(ctx context.Context, f *backend.File, rev int64) (map[string]revision.Revision, error) {
	newest := make(map[string]revision.Revision)
	err := forEachRevision(ctx, f, func(r revision.Revision, deletion bool, _, v []byte) error {
		if r.Main > rev {
			return nil
		}
		key, err := keyOf(v)
		if err != nil {
			return err
		}
		if deletion {
			delete(newest, string(key))
		} else {
			newest[string(key)] = r
		}
		return nil
	})
	return newest, err
}

// sumHistory leaves out what is up to floor and not among kept; nil keeps everything.
func sumHistory(ctx context.Context, f *backend.File, rev, floor int64, kept map[revision.Revision]struct{}) (uint32, error) {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, castagnoli, []byte(backend.Key.Name()))
	err := forEachRevision(ctx, f, func(r revision.Revision, deletion bool, k, v []byte) error {
		if r.Main > rev || r.Main == floor && deletion {
			return nil
		}
		if _, ok := kept[r]; !ok && r.Main <= floor && kept != nil {
			return nil
		}
		sum = crc32.Update(crc32.Update(sum, castagnoli, k), castagnoli, v)
		return nil
	})
	return sum, err
}
