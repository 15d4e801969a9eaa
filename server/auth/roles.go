package auth

import (
	"bytes"
	"maps"
	"slices"
	"sort"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/authpb"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// RoleAdd makes a role that allows nothing.
func (s *Store) RoleAdd(b Batch, name string) error {
	now := s.current.Load()
	switch {
	case name == "":
		return ErrRoleEmpty
	case now.roles[name] != nil:
		return ErrRoleExists
	}
	s.putRole(b, &authpb.Role{Name: []byte(name)})
	return nil
}

// RoleDelete removes a role and takes it from all users, in one revision.
func (s *Store) RoleDelete(b Batch, name string) error {
	now := s.current.Load()
	switch {
	case now.enabled && name == rootName:
		return ErrInvalidManagement
	case now.roles[name] == nil:
		return ErrRoleNotFound
	}
	next := now.clone()
	delete(next.roles, name)
	b.Delete(backend.AuthRoles, []byte(name))
	for _, username := range sortedNames(now.users) {
		if u := now.users[username]; slices.Contains(u.Roles, name) {
			next.setUser(b, withoutRole(u.User, name))
		}
	}
	s.publish(b, next)
	return nil
}

// RoleGrantPermission adds a permission to a role, in the order of the keys.
//
// A permission for the same range is replaced, but as in etcd only if it is the first of those that begin at its key: a
// later one stays, and the new one comes behind it.
func (s *Store) RoleGrantPermission(b Batch, name string, p *authpb.Permission) error {
	if p == nil {
		return ErrPermissionGiven
	}
	if !validRange(p.Key, p.RangeEnd) {
		return ErrInvalidManagement
	}
	role := s.current.Load().roles[name]
	if role == nil {
		return ErrRoleNotFound
	}
	granted := &authpb.Permission{PermType: p.PermType, Key: p.Key, RangeEnd: p.RangeEnd}
	all := slices.Clone(role.KeyPermission)
	at := sort.Search(len(all), func(i int) bool { return bytes.Compare(all[i].Key, p.Key) >= 0 })
	if at < len(all) && sameRange(all[at], p.Key, p.RangeEnd) {
		all[at] = granted
	} else {
		all = append(all, granted)
		// The order of permissions for one key is that which this very algorithm leaves; etcd's files have it.
		sort.Slice(all, func(i, j int) bool { return bytes.Compare(all[i].Key, all[j].Key) < 0 })
	}
	s.putRole(b, &authpb.Role{Name: role.Name, KeyPermission: all})
	return nil
}

// validRange: a permission is for a key, all keys from one on, or a range that holds a key.
func validRange(key, end []byte) bool {
	if len(key) == 0 {
		return false
	}
	return len(end) == 0 || (len(end) == 1 && end[0] == 0) || bytes.Compare(key, end) < 0
}

func sameRange(p *authpb.Permission, key, end []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, end)
}

// RoleRevokePermission takes every permission for exactly this range from a role.
func (s *Store) RoleRevokePermission(b Batch, r *pb.AuthRoleRevokePermissionRequest) error {
	role := s.current.Load().roles[r.Role]
	if role == nil {
		return ErrRoleNotFound
	}
	left := slices.DeleteFunc(slices.Clone(role.KeyPermission), func(p *authpb.Permission) bool {
		return sameRange(p, r.Key, r.RangeEnd)
	})
	if len(left) == len(role.KeyPermission) {
		return ErrPermissionMissing
	}
	s.putRole(b, &authpb.Role{Name: role.Name, KeyPermission: left})
	return nil
}

// RoleGet returns the permissions of a role, to root and to those who hold it. They must not be changed.
func (s *Store) RoleGet(id Identity, name string) ([]*authpb.Permission, error) {
	now := s.current.Load()
	if err := s.CheckRoot(id); err != nil {
		if u := now.users[id.Username]; u == nil || !slices.Contains(u.Roles, name) {
			return nil, err
		}
	}
	role := now.roles[name]
	if role == nil {
		return nil, ErrRoleNotFound
	}
	if name == rootName {
		// Whatever was granted to it, it allows everything.
		return []*authpb.Permission{{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}}, nil
	}
	return role.KeyPermission, nil
}

// RoleList returns the names of all roles in order.
func (s *Store) RoleList() []string { return sortedNames(s.current.Load().roles) }

// putRole publishes a new or changed role, and with it new permissions of all who hold it.
func (s *Store) putRole(b Batch, record *authpb.Role) {
	next := s.current.Load().clone()
	name := string(record.Name)
	next.roles[name] = record
	b.Put(backend.AuthRoles, slices.Clone(record.Name), encode(record))
	for username, u := range next.users {
		if slices.Contains(u.Roles, name) {
			next.users[username] = newUser(u.User)
		}
	}
	s.publish(b, next)
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
