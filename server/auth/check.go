package auth

// Checks ask the state that was published last. While authentication is off, they let everything pass.

// CheckRead and CheckWrite refuse a request of id for the keys [key, end), where end is as in a range request.
// ErrUserEmpty, ErrOldRevision, ErrPermissionDenied.
func (s *Store) CheckRead(id Identity, key, end []byte) error {
	return s.check(id, func(p *permissions) bool { return p.read.covers(key, end) })
}

// CheckWrite is described at CheckRead.
func (s *Store) CheckWrite(id Identity, key, end []byte) error {
	return s.check(id, func(p *permissions) bool { return p.write.covers(key, end) })
}

func (s *Store) check(id Identity, allowed func(*permissions) bool) error {
	now := s.current.Load()
	switch {
	case !now.enabled:
		return nil
	case id.Revision == 0:
		return ErrUserEmpty // whoever presents nothing has no revision
	case id.Revision < now.revision:
		return ErrOldRevision
	}
	u := now.users[id.Username]
	if u == nil || (!u.root && !allowed(now.permissions(u))) {
		return ErrPermissionDenied
	}
	return nil
}

// CheckRoot refuses everybody who does not hold the role root. As in etcd, an identity that is good for an older revision
// is taken for what its user is now. ErrUserEmpty, ErrUserNotFound, ErrPermissionDenied.
func (s *Store) CheckRoot(id Identity) error {
	now := s.current.Load()
	if !now.enabled {
		return nil
	}
	if id.Username == "" {
		return ErrUserEmpty
	}
	switch u := now.users[id.Username]; {
	case u == nil:
		return ErrUserNotFound
	case !u.root:
		return ErrPermissionDenied
	}
	return nil
}

// CheckUser refuses nobody but nobody: ErrUserEmpty. Whoever shows a certificate is somebody, even without a name in it.
func (s *Store) CheckUser(id Identity) error {
	if s.Enabled() && id.Revision == 0 {
		return ErrUserEmpty
	}
	return nil
}

// CheckFresh refuses an answer that was made while users or roles changed: what allowed it may not hold any more.
// ErrOldRevision; the client presents itself again and repeats the request.
func (s *Store) CheckFresh(id Identity) error {
	if now := s.current.Load(); now.enabled && id.Revision != 0 && id.Revision != now.revision {
		return ErrOldRevision
	}
	return nil
}

// Root is who the server itself is, in commands that it proposes.
func (s *Store) Root() Identity {
	now := s.current.Load()
	if !now.enabled {
		return Identity{}
	}
	return Identity{Username: rootName, Revision: now.revision}
}

// Named is the identity of a user whom something else than a token has proved, such as a client certificate.
func (s *Store) Named(username string) Identity {
	return Identity{Username: username, Revision: s.Revision()}
}
