package snapfile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
)

// node is a directory or a value of etcd's v2 store in the JSON form in which that store saved itself. A value has
// null children. Its own times and indexes mean nothing any more but must be there.
type node struct {
	Path          string
	CreatedIndex  uint64
	ModifiedIndex uint64
	ExpireTime    string
	Value         string
	Children      map[string]*node
}

const never = "0001-01-01T00:00:00Z"

// eventCapacity is the length of the store's ring of past events. A reader that writes on needs the ring at its full
// length, though it is empty.
const eventCapacity = 1000

type store struct {
	Root           *node
	WatcherHub     watcherHub
	CurrentIndex   uint64
	Stats          map[string]uint64
	CurrentVersion int
}

type watcherHub struct {
	EventHistory eventHistory
}

type eventHistory struct {
	Queue                 eventQueue
	StartIndex, LastIndex uint64
}

type eventQueue struct {
	Events                      []*struct{}
	Size, Front, Back, Capacity int
}

// Values of the members' nodes.
type raftAttributes struct {
	PeerURLs  []string `json:"peerURLs"`
	IsLearner bool     `json:"isLearner,omitempty"`
}

type attributes struct {
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

func (s *store) directory(parent *node, name string) *node {
	d := &node{Path: path.Join(parent.Path, name), CreatedIndex: s.CurrentIndex, ModifiedIndex: s.CurrentIndex,
		ExpireTime: never, Children: map[string]*node{}}
	parent.Children[name] = d
	return d
}

func (s *store) value(parent *node, name, text string) {
	s.CurrentIndex++
	parent.Children[name] = &node{Path: path.Join(parent.Path, name), CreatedIndex: s.CurrentIndex,
		ModifiedIndex: s.CurrentIndex, ExpireTime: never, Value: text}
}

func encodeStore(snapshot *Snapshot) ([]byte, error) {
	s := &store{CurrentVersion: 2, Stats: map[string]uint64{}}
	s.Root = &node{Path: "/", ExpireTime: never, Children: map[string]*node{}}
	s.WatcherHub.EventHistory.Queue = eventQueue{Events: make([]*struct{}, eventCapacity), Capacity: eventCapacity}
	cluster := s.directory(s.Root, "0")
	s.directory(s.Root, "1")
	members := s.directory(cluster, "members")
	for _, m := range snapshot.Members {
		raft, err := json.Marshal(raftAttributes{PeerURLs: m.PeerURLs, IsLearner: m.IsLearner})
		if err != nil {
			return nil, err
		}
		directory := s.directory(members, strconv.FormatUint(m.ID, 16))
		s.value(directory, "raftAttributes", string(raft))
		if m.Name == "" && len(m.ClientURLs) == 0 {
			continue
		}
		other, err := json.Marshal(attributes{Name: m.Name, ClientURLs: m.ClientURLs})
		if err != nil {
			return nil, err
		}
		s.value(directory, "attributes", string(other))
	}
	if len(snapshot.Removed) > 0 {
		removed := s.directory(cluster, "removed_members")
		for _, id := range snapshot.Removed {
			s.value(removed, strconv.FormatUint(id, 16), "")
		}
	}
	if snapshot.Version != "" {
		s.value(cluster, "version", snapshot.Version)
	}
	return json.Marshal(s)
}

// decodeStore fills the members, the removed and the version from the JSON.
func decodeStore(data []byte, into *Snapshot) error {
	var s store
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	cluster := s.Root.child("0")
	if keys := s.Root.child("1"); keys != nil {
		into.V2Keys = len(keys.Children) > 0
	}
	members := cluster.child("members")
	if members == nil {
		return fmt.Errorf("no members")
	}
	for name, directory := range members.Children {
		id, err := strconv.ParseUint(name, 16, 64)
		if err != nil {
			return fmt.Errorf("member ID: %w", err)
		}
		var raft raftAttributes
		if err := directory.child("raftAttributes").decode(&raft); err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
		var other attributes
		if child := directory.child("attributes"); child != nil {
			if err := child.decode(&other); err != nil {
				return fmt.Errorf("member %s: %w", name, err)
			}
		}
		into.Members = append(into.Members, Member{ID: id, Name: other.Name, PeerURLs: raft.PeerURLs,
			ClientURLs: other.ClientURLs, IsLearner: raft.IsLearner})
	}
	slices.SortFunc(into.Members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	if removed := cluster.child("removed_members"); removed != nil {
		for name := range removed.Children {
			id, err := strconv.ParseUint(name, 16, 64)
			if err != nil {
				return fmt.Errorf("removed member ID: %w", err)
			}
			into.Removed = append(into.Removed, id)
		}
		slices.Sort(into.Removed)
	}
	if version := cluster.child("version"); version != nil {
		into.Version = version.Value
	}
	return nil
}

func (n *node) child(name string) *node {
	if n == nil {
		return nil
	}
	return n.Children[name]
}

func (n *node) decode(into any) error {
	if n == nil {
		return fmt.Errorf("attributes are missing")
	}
	return json.Unmarshal([]byte(n.Value), into)
}
