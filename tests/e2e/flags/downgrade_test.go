package flags

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/upkeep-kv/upkeep/tests/proc"
)

// TestDowngradeCheckTime: a downgrade lowers the cluster's version, and calling it off raises it again, within some looks
// of the leader, as with etcd.
func TestDowngradeCheckTime(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]string{"upkeep": proc.Build(t, "upkeep"), "etcd": proc.Peer(t, "etcd")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := proc.Start(t, program, 1, "--downgrade-check-time=100ms").Members[0]
			awaitVersion(t, m, "3.7.0")
			client := m.Client()
			_, err := client.Downgrade(deadline(t), clientv3.DowngradeEnable, "3.6.0")
			check(t, err)
			awaitVersion(t, m, "3.6.0")
			_, err = client.Downgrade(deadline(t), clientv3.DowngradeCancel, "")
			check(t, err)
			awaitVersion(t, m, "3.7.0")
		})
	}
}

func awaitVersion(t *testing.T, m *proc.Member, want string) {
	t.Helper()
	var got struct {
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage"`
	}
	for ctx := deadline(t); ctx.Err() == nil; {
		resp, err := http.Get(m.ClientURL + "/version")
		check(t, err)
		check(t, json.NewDecoder(resp.Body).Decode(&got))
		check(t, resp.Body.Close())
		if got.Cluster == want && got.Storage == want {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("the version is %+v, want %s", got, want)
}
