package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/upkeep-kv/upkeep/backend/vfs"
)

// ErrNotExist is returned for an object that is not there.
var ErrNotExist = errors.New("backup: no such object")

// ErrLocation is the class of errors about a text that names no repository.
var ErrLocation = errors.New("backup: bad repository")

// ObjectInfo is what a store knows of an object.
type ObjectInfo struct {
	Name     string
	Size     int64
	Modified time.Time
}

// Store keeps objects under flat names. An object is there whole or not at all: whoever lists or gets one sees the old
// content, the new content or nothing, whatever happens to the writer. All methods may be called at once. Errors name
// the place, and what to do where that is known.
type Store interface {
	// Put makes an object, or replaces it, of what write writes. expected is about how many bytes that will be, to choose
	// how they travel. On an error, write's included, the object is as it was.
	Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) error
	// Get opens an object: ErrNotExist.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	// Stat describes an object: ErrNotExist.
	Stat(ctx context.Context, name string) (ObjectInfo, error)
	// List describes all objects in ascending order of their names.
	List(ctx context.Context) ([]ObjectInfo, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
	// Sweep removes what writers that were cut off before a point in time have left and nobody can see.
	Sweep(ctx context.Context, before time.Time) error
	// Location is what OpenStore takes, for messages.
	Location() string
}

// OpenStore opens what a location names:
//
//	/var/backups/upkeep, file:///var/backups/upkeep
//	s3://bucket/prefix?endpoint=https://s3.example.com:9000&region=eu-1&path-style=true&ca=/etc/ca.pem
//
// See S3Options for the parameters. Nothing is written, and a bucket is not yet talked to.
func OpenStore(location string) (Store, error) {
	switch scheme, _, ok := strings.Cut(location, "://"); {
	case location == "":
		return nil, fmt.Errorf("%w: it is empty; give a directory or s3://bucket/prefix", ErrLocation)
	case !ok:
		absolute, err := filepath.Abs(location)
		if err != nil {
			return nil, err
		}
		return NewDirectory(vfs.OS{}, absolute), nil
	case scheme == "file":
		u, err := url.Parse(location)
		if err != nil {
			return nil, fmt.Errorf("%w %q: %w", ErrLocation, location, err)
		}
		if u.Host != "" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
			return nil, fmt.Errorf("%w %q: a directory is named by its absolute path, as in file:///var/backups",
				ErrLocation, location)
		}
		return NewDirectory(vfs.OS{}, filepath.Clean(u.Path)), nil
	case scheme == "s3":
		options, err := ParseS3(location)
		if err != nil {
			return nil, err
		}
		return NewS3(options)
	default:
		return nil, fmt.Errorf("%w %q: unknown scheme %q; give a directory, file:///directory or s3://bucket/prefix",
			ErrLocation, location, scheme)
	}
}
