package server

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/upkeep-kv/upkeep/raftnode/identity"
	"github.com/upkeep-kv/upkeep/server/config"
	"github.com/upkeep-kv/upkeep/server/discovery"
)

// discover finds out who founds the cluster, where --initial-cluster does not say it. Called with the data directory
// locked: what is registered at a discovery service stays there.
func (s *Server) discover(ctx context.Context, opts Options) error {
	d := &s.cfg.Discovery
	if !d.Wanted() {
		return nil
	}
	self := discovery.Founder{Name: s.cfg.Name, PeerURLs: s.cfg.peerURLs()}
	own := *s.cfg.Config // the caller's is not ours to change
	var founders []discovery.Founder
	var err error
	if d.ByDNS() {
		founders, err = discovery.BySRV(ctx, opts.Resolver, d.SRV, d.SRVName, self)
		if err != nil {
			return fmt.Errorf("--discovery-srv %q: %w", d.SRV, err)
		}
	} else {
		own.InitialClusterToken = d.Token
		founders, err = s.discoveryService().ByToken(ctx, identity.MemberID(self.PeerURLs, d.Token, 0), self)
		if err != nil {
			return fmt.Errorf("failed to join discovery cluster: %w", err)
		}
	}
	var text []config.Member
	for _, f := range founders {
		slices.Sort(f.PeerURLs)
		text = append(text, config.Member(f))
	}
	// Parsed once more, as if they had been given: what others have registered may be anything.
	if own.InitialCluster, err = config.ParseInitialCluster(config.FormatInitialCluster(text)); err != nil {
		return fmt.Errorf("the founders that were found: %w", err)
	}
	s.cfg = settings{&own}
	if d.ByDNS() {
		return nil // addresses were compared, by the resolver that knows these names
	}
	return own.CheckBootstrap()
}

func (s *Server) discoveryService() *discovery.Service {
	d := &s.cfg.Discovery
	return &discovery.Service{
		Token: d.Token, Endpoints: d.Endpoints, DialTimeout: d.DialTimeout, RequestTimeout: d.RequestTimeout,
		KeepAliveTime: d.KeepAliveTime, KeepAliveTimeout: d.KeepAliveTimeout,
		InsecureTransport: d.InsecureTransport, InsecureSkipVerify: d.InsecureSkipVerify,
		CertFile: d.CertFile, KeyFile: d.KeyFile, TrustedCAFile: d.TrustedCAFile, User: d.User, Password: d.Password,
		Logger: s.logger,
	}
}

// dialPeers connects to other members from the advertised address, with the gate SetMemberLocalAddr. nil means any way.
func (c settings) dialPeers() func(ctx context.Context, address string) (net.Conn, error) {
	if !c.Gates.SetMemberLocalAddr {
		return nil
	}
	for _, u := range c.AdvertisePeerURLs {
		if ip := net.ParseIP(u.Hostname()); ip != nil && !ip.IsUnspecified() {
			dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: ip}}
			return func(ctx context.Context, address string) (net.Conn, error) {
				if path, local := strings.CutPrefix(address, "unix:"); local {
					return new(net.Dialer).DialContext(ctx, "unix", path)
				}
				return dialer.DialContext(ctx, "tcp", address)
			}
		}
	}
	return nil
}
