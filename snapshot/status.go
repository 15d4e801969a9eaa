package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/mvcc/revision"
)

// Info is what Status finds. The JSON is etcdutl's.
type Info struct {
	// Hash is CRC-32C over all buckets.
	Hash uint32 `json:"hash"`
	// Revision is that of the newest entry; 0 if there is none.
	Revision int64 `json:"revision"`
	// TotalKey is the number of keys that exist at that revision.
	TotalKey int `json:"totalKey"`
	// TotalSize is that of the database in bytes, without trailer.
	TotalSize int64 `json:"totalSize"`
	// Version is the storage version; empty for files of etcd 3.5 and older.
	Version string `json:"version,omitempty"`
}

// ErrIntegrity is the class of errors about a database whose pages do not fit together.
var ErrIntegrity = errors.New("snapshot file integrity check failed")

type integrityError struct{ problems []string }

func (e *integrityError) Error() string {
	return fmt.Sprintf("%v. %d errors found.\n%s", ErrIntegrity, len(e.problems), strings.Join(e.problems, "\n"))
}

func (e *integrityError) Is(target error) bool { return target == ErrIntegrity }

// Status checks the integrity of a file and describes it. It does not look at the trailer; that is Verify.
// Errors: ErrIntegrity, ErrNotDatabase.
func Status(ctx context.Context, path string, options FileOptions) (info Info, err error) {
	err = view(ctx, path, options, func(f *backend.File) error {
		info.TotalSize = f.Size()
		version, err := metaValue(f, metaStorageVersion)
		if err != nil {
			return err
		}
		info.Version = string(version)
		if info.Hash, err = f.Hash(ctx); err != nil {
			return err
		}
		info.Revision, info.TotalKey, err = countKeys(ctx, f)
		return err
	})
	if errors.Is(err, backend.ErrCorrupt) {
		err = allProblems(ctx, path, err)
	}
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// allProblems replaces the first problem of a file, which was enough not to open it, by all of them.
func allProblems(ctx context.Context, path string, first error) error {
	problems, err := backend.Check(ctx, path)
	if err != nil || len(problems) == 0 {
		return first
	}
	return &integrityError{problems}
}

func countKeys(ctx context.Context, f *backend.File) (newest int64, keys int, err error) {
	live := make(map[string]struct{})
	err = forEachRevision(ctx, f, func(rev revision.Revision, deletion bool, _, v []byte) error {
		newest = rev.Main
		key, err := keyOf(v)
		if err != nil {
			return err
		}
		if deletion {
			delete(live, string(key))
		} else {
			live[string(key)] = struct{}{}
		}
		return nil
	})
	return newest, len(live), err
}

// keyOf returns field 1, the key, of an encoded KeyValue without decoding the rest. It points into v. The entry that
// a revision bump leaves has an empty value and so an empty key.
func keyOf(v []byte) ([]byte, error) {
	return bytesField(v, 1)
}

func bytesField(v []byte, wanted protowire.Number) ([]byte, error) {
	for len(v) > 0 {
		number, kind, n := protowire.ConsumeTag(v)
		if n < 0 {
			return nil, fmt.Errorf("%w: value: %w", ErrNotDatabase, protowire.ParseError(n))
		}
		v = v[n:]
		if number == wanted && kind == protowire.BytesType {
			field, n := protowire.ConsumeBytes(v)
			if n < 0 {
				return nil, fmt.Errorf("%w: value: %w", ErrNotDatabase, protowire.ParseError(n))
			}
			return field, nil
		}
		if n = protowire.ConsumeFieldValue(number, kind, v); n < 0 {
			return nil, fmt.Errorf("%w: value: %w", ErrNotDatabase, protowire.ParseError(n))
		}
		v = v[n:]
	}
	return nil, nil
}
