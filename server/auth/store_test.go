package auth

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/upkeep-kv/upkeep/backend"
	"github.com/upkeep-kv/upkeep/proto/authpb"
	pb "github.com/upkeep-kv/upkeep/proto/etcdserverpb"
)

// script runs commands on a store with a file behind it.
type script struct {
	t       *testing.T
	path    string
	backend *backend.Backend
	store   *Store
	index   uint64
}

func (s *script) open() {
	s.t.Helper()
	var err error
	if s.backend, err = backend.Open(backend.Config{Path: s.path}); err != nil {
		s.t.Fatal(err)
	}
	if s.store, err = Open(s.backend, Config{BcryptCost: 4}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) close() {
	s.t.Helper()
	s.store.Close()
	if err := s.backend.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// TestScripts: each line is a command; what it changed is in the same log entry. `restart` closes the file and opens it
// again: nothing may differ.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{t: t, path: filepath.Join(t.TempDir(), "db")}
		s.open()
		defer func() { s.close() }()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			switch d.Cmd {
			case "do", "ask":
				for line := range strings.Lines(d.Input) {
					fmt.Fprintln(&out, s.line(strings.Fields(line)))
				}
			case "restart":
				s.close()
				s.open()
			default:
				d.Fatalf(t, "unknown command %q, expected do, ask or restart", d.Cmd)
			}
			enabled, revision := s.store.Status()
			fmt.Fprintf(&out, "revision %d, enabled %v\n", revision, enabled)
			return out.String()
		})
	})
}

func (s *script) line(words []string) string {
	words = append(words, "", "", "")
	for i, w := range words {
		words[i] = unquoted(w)
	}
	batch := s.backend.Begin()
	s.index++
	defer func() { batch.Commit(s.index, 1) }()
	if answer, ok := s.change(batch, words); ok {
		return answer
	}
	id := Identity{Username: words[1], Revision: s.store.Revision()}
	if words[1] == "nobody" {
		id = Identity{}
	}
	if words[1] == "old" {
		id = Identity{Username: "root", Revision: s.store.Revision() - 1}
	}
	switch words[0] {
	case "read":
		return outcome(s.store.CheckRead(id, []byte(words[2]), []byte(words[3])))
	case "write":
		return outcome(s.store.CheckWrite(id, []byte(words[2]), []byte(words[3])))
	case "root":
		return outcome(s.store.CheckRoot(id))
	case "user":
		return outcome(s.store.CheckUser(id))
	case "fresh":
		return outcome(s.store.CheckFresh(id))
	case "roles":
		roles, err := s.store.UserGet(id, words[2])
		return fmt.Sprint(roles, " ", outcome(err))
	case "permissions":
		granted, err := s.store.RoleGet(id, words[2])
		var out []string
		for _, p := range granted {
			out = append(out, fmt.Sprintf("%v[%q %q]", p.PermType, p.Key, p.RangeEnd))
		}
		return strings.Join(append(out, outcome(err)), " ")
	case "list":
		return fmt.Sprint(s.store.UserList(), s.store.RoleList())
	case "password":
		_, err := s.store.CheckPassword(s.t.Context(), words[1], words[2])
		return outcome(err)
	}
	s.t.Fatalf("unknown line %q", words)
	return ""
}

func (s *script) change(b Batch, w []string) (string, bool) {
	var err error
	switch w[0] {
	case "enable":
		err = s.store.Enable(b)
	case "disable":
		s.store.Disable(b)
	case "add-user":
		r := &pb.AuthUserAddRequest{Name: w[1], HashedPassword: s.hash(w[2])}
		if w[2] == "none" {
			r.Options = &authpb.UserAddOptions{NoPassword: true}
		}
		err = s.store.UserAdd(b, r)
	case "add-plain":
		err = s.store.UserAdd(b, &pb.AuthUserAddRequest{Name: w[1], Password: w[2]})
	case "change-password":
		err = s.store.UserChangePassword(b, &pb.AuthUserChangePasswordRequest{Name: w[1], HashedPassword: s.hash(w[2])})
	case "delete-user":
		err = s.store.UserDelete(b, w[1])
	case "grant-role":
		err = s.store.UserGrantRole(b, w[1], w[2])
	case "revoke-role":
		err = s.store.UserRevokeRole(b, w[1], w[2])
	case "add-role":
		err = s.store.RoleAdd(b, w[1])
	case "delete-role":
		err = s.store.RoleDelete(b, w[1])
	case "grant":
		p := &authpb.Permission{Key: []byte(w[3]), RangeEnd: []byte(w[4])}
		p.PermType = authpb.Permission_Type(authpb.Permission_Type_value[strings.ToUpper(w[2])])
		if w[2] == "" {
			p = nil
		}
		err = s.store.RoleGrantPermission(b, w[1], p)
	case "revoke":
		err = s.store.RoleRevokePermission(b, &pb.AuthRoleRevokePermissionRequest{
			Role: w[1], Key: []byte(w[2]), RangeEnd: []byte(w[3]),
		})
	default:
		return "", false
	}
	return outcome(err), true
}

// unquoted: "" is the empty word, 0 the zero byte.
func unquoted(w string) string {
	switch w {
	case `""`:
		return ""
	case "0":
		return "\x00"
	}
	return w
}

func (s *script) hash(password string) string {
	hashed, err := s.store.Hash(s.t.Context(), password)
	if err != nil {
		s.t.Fatal(err)
	}
	return hashed
}

func outcome(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// Whatever permissions there are, a range is covered if and only if each of its keys is, one by one.
func TestCoverage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	letters := []string{"a", "b", "c", "d", "e", "f", "b\x00", "bb"}
	key := func() string { return letters[r.IntN(len(letters))] }
	end := func() string { return append(letters, "", "", "\x00")[r.IntN(len(letters)+3)] }
	for range 20_000 {
		p := newPermissions()
		var granted []*authpb.Permission
		for range r.IntN(6) {
			if k, e := []byte(key()), []byte(end()); validRange(k, e) {
				granted = append(granted, &authpb.Permission{Key: k, RangeEnd: e})
			}
		}
		p.add(granted)
		p.merge()
		for i := 1; i < len(p.read); i++ {
			if before := p.read[i-1].end; before == nil || string(before) >= string(p.read[i].begin) {
				t.Fatalf("intervals touch: %q", p.read)
			}
		}
		k, e := key(), end()
		// Gaps begin where a permission ends or the range begins, so these are the keys to look at.
		suspects := []string{k}
		for _, l := range letters {
			suspects = append(suspects, l, l+"\x00")
		}
		want := true
		for _, s := range suspects {
			if inside(s, k, e) || s == k {
				want = want && slices.ContainsFunc(granted, func(g *authpb.Permission) bool {
					return inside(s, string(g.Key), string(g.RangeEnd))
				})
			}
		}
		if got := p.read.covers([]byte(k), []byte(e)); got != want {
			t.Fatalf("[%q, %q) with %v: covered %v, want %v", k, e, granted, got, want)
		}
	}
}

func inside(s, key, end string) bool {
	switch end {
	case "":
		return s == key
	case "\x00":
		return s >= key
	}
	return key <= s && s < end
}

// A plain password or a broken hash in a log entry must come out the same on every member: as a refusal.
func TestStoredPassword(t *testing.T) {
	if _, err := storedPassword("secret", ""); err != ErrPlaintextInHistory {
		t.Errorf("plain: %v", err)
	}
	if _, err := storedPassword("", "!"); err != ErrNoPasswordUser {
		t.Errorf("no base64: %v", err)
	}
	hashed, err := storedPassword("", base64.StdEncoding.EncodeToString([]byte("hash")))
	if err != nil || string(hashed) != "hash" {
		t.Errorf("hash: %q, %v", hashed, err)
	}
}
