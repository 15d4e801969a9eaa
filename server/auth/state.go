package auth

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/authpb"
)

// What stands in the `auth` bucket. Source: etcd's schema.
var (
	keyEnabled  = []byte("authEnabled")  // one byte, 1 or 0; absent before the first enabling
	keyRevision = []byte("authRevision") // uint64 big endian
)

// firstRevision is that of a store in which nothing was ever changed.
const firstRevision uint64 = 1

// rootName is the name of the user without whom authentication cannot be enabled, and of the role that may do anything.
const rootName = "root"

// state is the replicated content at one auth revision. It is never changed once it is published: a change makes a new
// one, which shares with the old one what stayed the same.
type state struct {
	enabled  bool
	revision uint64
	users    map[string]*user
	roles    map[string]*authpb.Role
}

// user is a stored user and what its roles allow together. A change of either makes a new user, so that the permissions
// computed last are those of this user for as long as it lives.
type user struct {
	*authpb.User
	root  bool // holds role root
	cache atomic.Pointer[permissions]
}

func newUser(record *authpb.User) *user {
	return &user{User: record, root: slices.Contains(record.Roles, rootName)}
}

// permissions are computed when they are first asked for.
func (s *state) permissions(u *user) *permissions {
	if p := u.cache.Load(); p != nil {
		return p
	}
	p := newPermissions()
	for _, name := range u.Roles {
		p.add(s.roles[name].GetKeyPermission())
	}
	p.merge()
	u.cache.Store(p)
	return p
}

// clone returns a copy of which the maps may be changed, but not what they hold.
func (s *state) clone() *state {
	return &state{enabled: s.enabled, revision: s.revision, users: maps.Clone(s.users), roles: maps.Clone(s.roles)}
}

// load reads what view holds.
func load(view *backend.View) (*state, error) {
	s := &state{revision: firstRevision, users: map[string]*user{}, roles: map[string]*authpb.Role{}}
	err := view.ScanBucket(backend.Auth, nil, nil, func(k, v []byte) error {
		switch string(k) {
		case string(keyEnabled):
			s.enabled = len(v) == 1 && v[0] == 1
		case string(keyRevision):
			if len(v) != 8 {
				return fmt.Errorf("auth bucket: %s has %d bytes, want 8", k, len(v))
			}
			s.revision = binary.BigEndian.Uint64(v)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := view.ScanBucket(backend.AuthRoles, nil, nil, func(k, v []byte) error {
		role := &authpb.Role{}
		if err := role.UnmarshalVT(v); err != nil {
			return fmt.Errorf("authRoles bucket: role %q: %w", k, err)
		}
		s.roles[string(k)] = role
		return nil
	}); err != nil {
		return nil, err
	}
	return s, view.ScanBucket(backend.AuthUsers, nil, nil, func(k, v []byte) error {
		record := &authpb.User{}
		if err := record.UnmarshalVT(v); err != nil {
			return fmt.Errorf("authUsers bucket: user %q: %w", k, err)
		}
		s.users[string(k)] = newUser(record)
		return nil
	})
}
