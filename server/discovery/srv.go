package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Founder is one member of the cluster that is to be founded.
type Founder struct {
	Name     string
	PeerURLs []string
}

// ErrNotListed says that SRV records do not name the member that asked.
var ErrNotListed = errors.New("the SRV records and this member's peer URLs differ")

// BySRV reads the founders from the SRV records of domain. suffix, unless empty, is appended to the name of the service.
// self is the member that asks, as it advertises itself.
func BySRV(ctx context.Context, resolver *net.Resolver, domain, suffix string, self Founder) ([]Founder, error) {
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	var found []string // peer URLs
	var errs []error
	for _, kind := range []struct{ service, scheme string }{{"etcd-server-ssl", "https"}, {"etcd-server", "http"}} {
		service := kind.service
		if suffix != "" {
			service += "-" + suffix
		}
		_, records, err := resolver.LookupSRV(ctx, service, "tcp", domain)
		if err != nil {
			errs = append(errs, fmt.Errorf("error querying DNS SRV records for _%s %w", service, err))
		}
		for _, r := range records {
			host := net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			found = append(found, kind.scheme+"://"+host)
		}
	}
	if len(found) == 0 {
		return nil, errors.Join(errs...)
	}
	slices.Sort(found) // records come in random order
	return name(ctx, resolver, slices.Compact(found), self)
}

// name gives self its own URLs and numbers the others.
func name(ctx context.Context, resolver *net.Resolver, found []string, self Founder) ([]Founder, error) {
	own := map[string]bool{}
	for _, u := range self.PeerURLs {
		own[u] = true
	}
	addresses := addressesOf(ctx, resolver, self.PeerURLs)
	founders := []Founder{{Name: self.Name}}
	for _, u := range found {
		if own[u] || sharesAddress(addresses, addressesOf(ctx, resolver, []string{u})) {
			founders[0].PeerURLs = append(founders[0].PeerURLs, u)
			continue
		}
		number := strconv.Itoa(len(founders) - 1)
		if number == self.Name {
			number += "-" // two members must not share a name
		}
		founders = append(founders, Founder{Name: number, PeerURLs: []string{u}})
	}
	if len(founders[0].PeerURLs) != len(self.PeerURLs) {
		return nil, fmt.Errorf("%w: they name %s, --initial-advertise-peer-urls %s", ErrNotListed,
			strings.Join(found, ", "), strings.Join(self.PeerURLs, ", "))
	}
	return founders, nil
}

// addressesOf lists scheme://ip:port for every address that the hosts of URLs have. Hosts that cannot be resolved have
// none: they are somebody else's.
func addressesOf(ctx context.Context, resolver *net.Resolver, urls []string) []string {
	var out []string
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			continue
		}
		ips, err := resolver.LookupHost(ctx, u.Hostname())
		if err != nil {
			continue
		}
		for _, ip := range ips {
			out = append(out, u.Scheme+"://"+net.JoinHostPort(ip, u.Port()))
		}
	}
	return out
}

func sharesAddress(a, b []string) bool {
	return slices.ContainsFunc(a, func(address string) bool { return slices.Contains(b, address) })
}
