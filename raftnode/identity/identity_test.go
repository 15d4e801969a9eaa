package identity

import (
	"strings"
	"testing"
)

func TestKnownIdentities(t *testing.T) {
	// The pair that etcd 3.7 logs for this configuration.
	members, cluster, err := ParseCluster("a=http://127.0.0.1:42380", "etcd-cluster")
	if err != nil {
		t.Fatal(err)
	}
	if got := members[0].ID; got != 0x667880157b8812c8 {
		t.Errorf("member %x", got)
	}
	if cluster != 0xdc50b8daae93b3e0 {
		t.Errorf("cluster %x", cluster)
	}
	// etcd's default configuration.
	members, cluster, err = ParseCluster("default=http://localhost:2380", "etcd-cluster")
	if err != nil {
		t.Fatal(err)
	}
	if members[0].ID != 0x8e9e05c52164694d || cluster != 0xcdf818194e3a8c32 {
		t.Errorf("member %x cluster %x", members[0].ID, cluster)
	}
}

func TestOrderDoesNotMatter(t *testing.T) {
	one := MemberID([]string{"http://a:1", "http://b:2"}, "t", 0)
	two := MemberID([]string{"http://b:2", "http://a:1"}, "t", 0)
	if one != two {
		t.Error("URL order changes the member ID")
	}
	if one == MemberID([]string{"http://a:1", "http://b:2"}, "u", 0) {
		t.Error("token does not change the member ID")
	}
	if MemberID([]string{"http://a:1"}, "", 5) == MemberID([]string{"http://a:1"}, "", 6) {
		t.Error("time does not change the member ID")
	}
	if ClusterID([]uint64{1, 2}) != ClusterID([]uint64{2, 1}) {
		t.Error("member order changes the cluster ID")
	}
}

func TestParseCluster(t *testing.T) {
	members, _, err := ParseCluster("a=http://h:1,b=http://h:2,a=http://h:3", "t")
	if err != nil {
		t.Fatal(err)
	}
	if len(members) != 2 || members[0].ID >= members[1].ID {
		t.Fatalf("members %v", members)
	}
	for _, m := range members {
		if m.Name == "a" && strings.Join(m.PeerURLs, " ") != "http://h:1 http://h:3" {
			t.Errorf("URLs of a: %v", m.PeerURLs)
		}
	}
	for text, want := range map[string]string{
		"":                          "empty URL",
		"a=":                        "empty URL",
		"=http://h:1":               "no name",
		"a=ftp://h:1":               "scheme",
		"a=http://h":                "host:port",
		"a=http://h:1/x":            "path",
		"a=http://h:1,b=http://h:1": "duplicate URL",
	} {
		if _, _, err := ParseCluster(text, "t"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func TestMatch(t *testing.T) {
	if !Match([]string{"http://a:1", "http://b:2"}, []string{"http://b:2", " http://a:1"}) {
		t.Error("same URLs do not match")
	}
	if Match([]string{"http://a:1"}, []string{"http://a:2"}) || Match(nil, nil) {
		t.Error("different or missing URLs match")
	}
}
