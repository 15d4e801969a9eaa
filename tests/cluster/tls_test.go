package cluster_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/upkeep-kv/upkeep/server/tlsconfig"
	"github.com/upkeep-kv/upkeep/tests/certs"
	"github.com/upkeep-kv/upkeep/tests/cluster"
)

// Certificates expire. Members that know each other go on; who comes later is refused, until the files are renewed: then
// everybody is let in again, without a restart of the members that stayed.
func TestCertificatesExpireAndAreRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := certs.NewAuthority(t, "ca")
		spec := certs.Spec{CommonName: "member", IPs: []string{"127.0.1.1", "127.0.1.2", "127.0.1.3"}, NotAfter: time.Now().Add(10 * time.Minute), In: t.TempDir()}
		pair := ca.Issue(t, spec)
		client := ca.Client(t, ca.Issue(t, certs.Spec{CommonName: "client"}))
		client.ServerName = "" // that of the URL
		c := cluster.Start(t, cluster.Heartbeat(time.Second), cluster.TLS(tlsconfig.Settings{
			CertFile: pair.CertFile, KeyFile: pair.KeyFile, TrustedCAFile: ca.CertFile,
		}, client))
		c.Put("k", "1")
		away := c.Member(2)
		c.Network().Isolate(away.Host)
		time.Sleep(15 * time.Minute) // less than the half hour after which the idle client would disconnect
		c.Put("k", "2")
		brief := func() error {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			_, err := c.Member(0).NewClient().Get(ctx, "k")
			return err
		}
		if brief() == nil {
			t.Error("a client believed an expired certificate")
		}
		c.Network().Rejoin(away.Host)
		time.Sleep(time.Minute)
		if away.Server().Leader() != 0 {
			t.Error("a member with an expired certificate was let in")
		}

		spec.NotAfter = time.Now().Add(6 * time.Hour)
		ca.Issue(t, spec)
		c.Wait("the member to be let in", func() bool { return away.Server().Revision() == c.Leader().Server().Revision() })
		if err := brief(); err != nil {
			t.Error(err)
		}
	})
}
