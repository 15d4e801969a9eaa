package tlsconfig

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
)

// resolver is what the check of a certificate's origin asks of DNS; *net.Resolver is one.
type resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupAddr(ctx context.Context, address string) ([]string, error)
}

// checkOrigin compares the addresses and names in a certificate with where the connection comes from. A certificate
// without any, and a connection over a Unix socket, are fine. Names are looked up; a wildcard is compared with the names
// that the address has. Source: etcd.
func checkOrigin(ctx context.Context, cert *x509.Certificate, remote net.Addr, dns resolver) error {
	if len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		return nil // no network address
	}
	ip := net.ParseIP(strings.SplitN(host, "%", 2)[0])
	if ip == nil {
		return nil
	}
	for _, allowed := range cert.IPAddresses {
		if allowed.Equal(ip) {
			return nil
		}
	}
	if len(cert.DNSNames) == 0 {
		return fmt.Errorf("tls: %q does not match any of IPAddresses %v", ip, cert.IPAddresses)
	}
	var failures []string
	for _, name := range cert.DNSNames {
		if strings.Contains(name, "*") {
			continue
		}
		addresses, err := dns.LookupHost(ctx, name)
		if err != nil {
			failures = append(failures, err.Error())
		}
		for _, address := range addresses {
			if found := net.ParseIP(address); found != nil && found.Equal(ip) {
				return nil
			}
		}
	}
	if matchesWildcard(ctx, cert, ip, dns) {
		return nil
	}
	err = fmt.Errorf("tls: %q does not match any of DNSNames %q", ip, cert.DNSNames)
	if len(failures) > 0 {
		err = fmt.Errorf("%w (%s)", err, strings.Join(failures, "; "))
	}
	return err
}

// matchesWildcard tells whether one of the names that ip has fits one of the certificate's that has a wildcard.
func matchesWildcard(ctx context.Context, cert *x509.Certificate, ip net.IP, dns resolver) bool {
	var wildcards []string
	for _, name := range cert.DNSNames {
		if strings.Contains(name, "*") {
			wildcards = append(wildcards, name)
		}
	}
	if len(wildcards) == 0 {
		return false
	}
	names, err := dns.LookupAddr(ctx, ip.String())
	if err != nil {
		return false
	}
	only := &x509.Certificate{DNSNames: wildcards}
	for _, name := range names {
		if only.VerifyHostname(strings.TrimSuffix(name, ".")) == nil {
			return true
		}
	}
	return false
}
