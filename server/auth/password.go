package auth

import (
	"context"
	"encoding/base64"
	"runtime"

	"golang.org/x/crypto/bcrypt"
)

// DefaultBcryptCost is the cost of hashing where none is configured: 2^10 rounds, some tens of milliseconds.
const DefaultBcryptCost = bcrypt.DefaultCost

// ValidBcryptCost tells whether cost is one that bcrypt knows.
func ValidBcryptCost(cost int) bool { return cost >= bcrypt.MinCost && cost <= bcrypt.MaxCost }

// passwordsAtOnce leaves a processor to the rest of the server, however many clients send passwords.
func passwordsAtOnce() int { return max(1, runtime.GOMAXPROCS(0)-1) }

// Hash returns a password as commands carry it: bcrypt's text in base64. The salt is random, so this is done once, before
// the command is proposed.
func (s *Store) Hash(ctx context.Context, password string) (string, error) {
	if len(password) > maxPasswordBytes {
		return "", bcrypt.ErrPasswordTooLong
	}
	if err := s.startHashing(ctx); err != nil {
		return "", err
	}
	defer s.endHashing()
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), s.cfg.BcryptCost)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(hashed), nil
}

// maxPasswordBytes is what bcrypt looks at.
const maxPasswordBytes = 72

// CheckPassword returns the auth revision at which password was that of the user. ErrNotEnabled, ErrAuthFailed,
// ErrNoPasswordUser, ctx's error.
func (s *Store) CheckPassword(ctx context.Context, username, password string) (revision uint64, err error) {
	now := s.current.Load()
	if !now.enabled {
		return 0, ErrNotEnabled
	}
	u := now.users[username]
	switch {
	case u == nil:
		return 0, ErrAuthFailed
	case u.Options.GetNoPassword():
		return 0, ErrNoPasswordUser
	}
	if err := s.startHashing(ctx); err != nil {
		return 0, err
	}
	defer s.endHashing()
	if bcrypt.CompareHashAndPassword(u.Password, []byte(password)) != nil {
		return 0, ErrAuthFailed
	}
	return now.revision, nil
}

func (s *Store) startHashing(ctx context.Context) error {
	select {
	case s.hashing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) endHashing() { <-s.hashing }
