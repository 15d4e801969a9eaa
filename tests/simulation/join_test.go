package simulation

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// A new member asks the first of the others who is in the cluster, and that one does not know of it yet. A simulated run
// found this (seed 1795214833345111147, about every second time).
func TestJoinThroughAMemberThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster.Start(t)
		c.MoveLeader(c.Member(1))
		c.SlowLink(c.Member(1), c.Member(0), 400*time.Millisecond, 0)
		time.Sleep(10 * time.Second)
		added := c.AddMember(false)
		c.Put("k", "v")
		c.WaitApplied()
		if added.Server().Revision() != c.Member(0).Server().Revision() {
			t.Error("the new member lacks what the others have")
		}
	})
}
