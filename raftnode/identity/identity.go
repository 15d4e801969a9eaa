package identity

import (
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ErrZero is returned when a derivation yields 0, which raft reserves for "no member".
var ErrZero = errors.New("identity: derived member ID is 0, choose another URL or token")

// MemberID derives a member's identity from its peer URLs. A bootstrapped or restored member gives the cluster token
// and unixSeconds 0; a member added to a running cluster gives an empty token and the time of the request.
// The order of the URLs does not matter.
func MemberID(peerURLs []string, token string, unixSeconds int64) uint64 {
	sorted := slices.Clone(peerURLs)
	slices.Sort(sorted)
	hash := sha1.New()
	for _, u := range sorted {
		hash.Write([]byte(u))
	}
	hash.Write([]byte(token))
	if unixSeconds != 0 {
		hash.Write(strconv.AppendInt(nil, unixSeconds, 10))
	}
	return binary.BigEndian.Uint64(hash.Sum(nil))
}

// ClusterID derives the identity of a cluster from those of its first members, in any order.
func ClusterID(memberIDs []uint64) uint64 {
	sorted := slices.Clone(memberIDs)
	slices.Sort(sorted)
	raw := make([]byte, 0, 8*len(sorted))
	for _, id := range sorted {
		raw = binary.BigEndian.AppendUint64(raw, id)
	}
	sum := sha1.Sum(raw)
	return binary.BigEndian.Uint64(sum[:])
}

// Member is one entry of an initial cluster, with the identity it will have.
type Member struct {
	ID       uint64
	Name     string
	PeerURLs []string // sorted, in parsed form
}

// ParseURLs checks a list of listen or advertise URLs and returns it sorted, each in the form that identities are
// derived from. Accepted are http, https, unix and unixs URLs; the first two need host:port and no path.
func ParseURLs(urls []string) ([]string, error) {
	if len(urls) == 0 {
		return nil, errors.New("no valid URLs given")
	}
	parsed := make([]string, 0, len(urls))
	for _, text := range urls {
		text = strings.TrimSpace(text)
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return nil, fmt.Errorf("URL address does not have the form \"host:port\": %s", text)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("URL must not contain a path: %s", text)
			}
		case "unix", "unixs":
		default:
			return nil, fmt.Errorf("URL scheme must be http, https, unix, or unixs: %s", text)
		}
		parsed = append(parsed, u.String())
	}
	slices.Sort(parsed)
	return parsed, nil
}

// ParseCluster reads "name=url,name=url"; a name may stand several times, once for each of its URLs. It returns the
// members in ascending order of identity, and the identity of the cluster.
func ParseCluster(text, token string) (members []Member, clusterID uint64, err error) {
	urls := make(map[string][]string)
	for _, pair := range strings.Split(text, ",") {
		name, u, found := strings.Cut(strings.TrimSpace(pair), "=")
		if !found || u == "" {
			return nil, 0, fmt.Errorf("empty URL given for %q", name)
		}
		if name == "" {
			return nil, 0, fmt.Errorf("no name given for URL %q", u)
		}
		urls[name] = append(urls[name], u)
	}
	return NewCluster(urls, token)
}

// NewCluster is ParseCluster for a cluster that is already split into the URLs of each name.
func NewCluster(urls map[string][]string, token string) (members []Member, clusterID uint64, err error) {
	owner := make(map[string]string) // peer URL -> name
	for name, list := range urls {
		parsed, err := ParseURLs(list)
		if err != nil {
			return nil, 0, err
		}
		for _, u := range parsed {
			if _, taken := owner[u]; taken {
				return nil, 0, fmt.Errorf("initial cluster has duplicate URL %s", u)
			}
			owner[u] = name
		}
		id := MemberID(parsed, token, 0)
		if id == 0 {
			return nil, 0, ErrZero
		}
		members = append(members, Member{ID: id, Name: name, PeerURLs: parsed})
	}
	slices.SortFunc(members, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	ids := make([]uint64, len(members))
	for i, m := range members {
		if i > 0 && m.ID == ids[i-1] {
			return nil, 0, fmt.Errorf("members %s and %s derive the same ID %x", members[i-1].Name, m.Name, m.ID)
		}
		ids[i] = m.ID
	}
	return members, ClusterID(ids), nil
}

// Match reports whether two lists name the same URLs, whatever their order and spelling.
func Match(a, b []string) bool {
	x, errX := ParseURLs(a)
	y, errY := ParseURLs(b)
	return errX == nil && errY == nil && slices.Equal(x, y)
}
