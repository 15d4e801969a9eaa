package auth

import (
	"encoding/base64"
	"slices"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/authpb"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// UserAdd makes a user. The password arrives hashed; see Hash.
func (s *Store) UserAdd(b Batch, r *pb.AuthUserAddRequest) error {
	now := s.current.Load()
	switch {
	case r.Name == "":
		return ErrUserEmpty
	case now.users[r.Name] != nil:
		return ErrUserExists
	}
	options := r.Options
	if options == nil {
		options = &authpb.UserAddOptions{} // etcd stores it even where it says nothing
	}
	var password []byte
	if !options.NoPassword {
		var err error
		if password, err = storedPassword(r.Password, r.HashedPassword); err != nil {
			return err
		}
	}
	s.putUser(b, &authpb.User{Name: []byte(r.Name), Password: password, Options: options})
	return nil
}

// UserDelete removes a user and ends its tokens.
func (s *Store) UserDelete(b Batch, name string) error {
	now := s.current.Load()
	switch {
	case now.enabled && name == rootName:
		return ErrInvalidManagement
	case now.users[name] == nil:
		return ErrUserNotFound
	}
	next := now.clone()
	delete(next.users, name)
	b.Delete(backend.AuthUsers, []byte(name))
	s.simple.drop(func(username string) bool { return username == name })
	s.publish(b, next)
	return nil
}

// UserChangePassword sets a new password, which arrives hashed, and ends the user's tokens.
func (s *Store) UserChangePassword(b Batch, r *pb.AuthUserChangePasswordRequest) error {
	u := s.current.Load().users[r.Name]
	if u == nil {
		return ErrUserNotFound
	}
	var password []byte
	if !u.Options.GetNoPassword() {
		var err error
		if password, err = storedPassword(r.Password, r.HashedPassword); err != nil {
			return err
		}
	}
	s.simple.drop(func(username string) bool { return username == r.Name })
	s.putUser(b, &authpb.User{Name: u.Name, Password: password, Roles: u.Roles, Options: u.Options})
	return nil
}

// storedPassword is the bcrypt hash that a command carries. One in plain text would be hashed with a different salt on
// each member, and so differ.
func storedPassword(plain, hashed string) ([]byte, error) {
	if plain != "" && hashed == "" {
		return nil, ErrPlaintextInHistory
	}
	password, err := base64.StdEncoding.DecodeString(hashed)
	if err != nil {
		return nil, ErrNoPasswordUser // etcd's answer
	}
	return password, nil
}

// UserGrantRole gives a role to a user. Role root may be given although it does not exist.
func (s *Store) UserGrantRole(b Batch, username, role string) error {
	now := s.current.Load()
	u := now.users[username]
	switch {
	case u == nil:
		return ErrUserNotFound
	case role != rootName && now.roles[role] == nil:
		return ErrRoleNotFound
	case slices.Contains(u.Roles, role):
		return nil
	}
	roles := append(slices.Clone(u.Roles), role)
	slices.Sort(roles)
	s.putUser(b, &authpb.User{Name: u.Name, Password: u.Password, Roles: roles, Options: u.Options})
	return nil
}

// UserRevokeRole takes a role from a user.
func (s *Store) UserRevokeRole(b Batch, username, role string) error {
	now := s.current.Load()
	if now.enabled && username == rootName && role == rootName {
		return ErrInvalidManagement
	}
	u := now.users[username]
	switch {
	case u == nil:
		return ErrUserNotFound
	case !slices.Contains(u.Roles, role):
		return ErrRoleNotGranted
	}
	s.putUser(b, withoutRole(u.User, role))
	return nil
}

func withoutRole(u *authpb.User, role string) *authpb.User {
	roles := slices.DeleteFunc(slices.Clone(u.Roles), func(r string) bool { return r == role })
	return &authpb.User{Name: u.Name, Password: u.Password, Roles: roles, Options: u.Options}
}

// UserGet returns the roles of a user, to that user and to root.
func (s *Store) UserGet(id Identity, name string) ([]string, error) {
	if err := s.CheckRoot(id); err != nil && id.Username != name {
		return nil, err
	}
	u := s.current.Load().users[name]
	if u == nil {
		return nil, ErrUserNotFound
	}
	return slices.Clone(u.Roles), nil
}

// UserList returns the names of all users in order.
func (s *Store) UserList() []string { return sortedNames(s.current.Load().users) }

// putUser publishes a new or changed user.
func (s *Store) putUser(b Batch, record *authpb.User) {
	next := s.current.Load().clone()
	next.setUser(b, record)
	s.publish(b, next)
}

func (s *state) setUser(b Batch, record *authpb.User) {
	b.Put(backend.AuthUsers, slices.Clone(record.Name), encode(record))
	s.users[string(record.Name)] = newUser(record)
}

// encode cannot fail: a message that is not nil and is in nobody else's hands always encodes.
func encode(record interface{ MarshalVT() ([]byte, error) }) []byte {
	out, _ := record.MarshalVT()
	return out
}
