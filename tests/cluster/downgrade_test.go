package cluster_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// The cluster's and the storage version go down to a downgrade's target, survive elections and restarts, and go up again
// when it is cancelled. Every member says once that it is ready.
func TestDowngrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logged := observer.New(zapcore.InfoLevel)
		c := cluster.Start(t, cluster.Logger(zap.New(core)))
		versions := func() string {
			t.Helper()
			time.Sleep(10 * time.Second)
			var all []string
			for _, m := range c.Members() {
				resp, err := m.Client().Status(t.Context(), m.Client().Endpoints()[0])
				if err != nil {
					t.Fatal(err)
				}
				info := resp.DowngradeInfo.TargetVersion
				if resp.DowngradeInfo.Enabled {
					info += " enabled"
				}
				all = append(all, resp.StorageVersion+" "+info)
			}
			return strings.Join(all, ", ")
		}
		want := func(what, storage string) {
			t.Helper()
			if got, want := versions(), strings.Join([]string{storage, storage, storage}, ", "); got != want {
				t.Fatalf("%s: %s, want %s", what, got, want)
			}
		}
		ask := func(action clientv3.DowngradeAction, version, answer string) {
			t.Helper()
			resp, err := c.Client().Downgrade(t.Context(), action, version)
			if err != nil {
				wantText(t, version, err, answer)
			} else if resp.Version != answer {
				t.Fatalf("%v %s: %s, want %s", action, version, resp.Version, answer)
			}
		}
		want("at first", "3.7.0 ")
		ask(clientv3.DowngradeEnable, "3.6", "3.7")
		want("enabled", "3.6.0 3.6.0 enabled")
		ask(clientv3.DowngradeValidate, "3.6", "etcdserver: invalid downgrade target version")
		ask(clientv3.DowngradeEnable, "3.5", "etcdserver: cluster has a downgrade job in progress")
		for _, m := range c.Members() {
			m.Restart()
		}
		want("after restarts", "3.6.0 3.6.0 enabled")
		if n := logged.FilterMessage("The server is ready to downgrade").Len(); n != 6 {
			t.Errorf("%d times ready, want once for each of three members and each of their two lives", n)
		}
		ask(clientv3.DowngradeCancel, "", "3.6")
		want("cancelled", "3.7.0 ")
		ask(clientv3.DowngradeEnable, "3.6", "3.7")
		want("enabled again", "3.6.0 3.6.0 enabled")
	})
}
