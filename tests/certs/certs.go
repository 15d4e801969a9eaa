// Package certs makes certificate authorities, certificates and revocation lists for tests, as files.
//
//	ca := certs.NewAuthority(t, "ca")
//	server := ca.Issue(t, certs.Spec{CommonName: "m0", IPs: []string{"127.0.0.1"}})
//	// --cert-file server.CertFile --key-file server.KeyFile --trusted-ca-file ca.CertFile
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority signs certificates.
type Authority struct {
	CertFile string
	Cert     *x509.Certificate

	dir string
	key *ecdsa.PrivateKey
}

// Spec is what a certificate says. Without dates it is valid now.
type Spec struct {
	CommonName string
	IPs, DNS   []string
	NotAfter   time.Time
	// In is the directory for the files; empty makes one.
	In string
}

// Pair is a certificate and its key, and where they are.
type Pair struct {
	CertFile, KeyFile string
	Cert              *x509.Certificate
}

// NewAuthority makes an authority.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{dir: t.TempDir(), key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: newSerial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	must(t, err)
	a.Cert = parse(t, der)
	a.CertFile = filepath.Join(a.dir, "ca.crt")
	write(t, a.CertFile, "CERTIFICATE", der)
	return a
}

// Issue makes a certificate for servers and clients alike.
func (a *Authority) Issue(t testing.TB, spec Spec) Pair {
	t.Helper()
	if spec.NotAfter.IsZero() {
		spec.NotAfter = time.Now().Add(12 * time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(t), Subject: pkix.Name{CommonName: spec.CommonName},
		NotBefore: spec.NotAfter.Add(-13 * time.Hour), NotAfter: spec.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    spec.DNS,
	}
	for _, ip := range spec.IPs {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, &key.PublicKey, a.key)
	must(t, err)
	if spec.In == "" {
		spec.In = t.TempDir()
	}
	p := Pair{CertFile: filepath.Join(spec.In, "tls.crt"), KeyFile: filepath.Join(spec.In, "tls.key"), Cert: parse(t, der)}
	keyDER, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	write(t, p.KeyFile, "EC PRIVATE KEY", keyDER)
	write(t, p.CertFile, "CERTIFICATE", der)
	return p
}

// Revoke replaces the revocation list at path by one of exactly these certificates.
func (a *Authority) Revoke(t testing.TB, path string, revoked ...Pair) {
	t.Helper()
	template := &x509.RevocationList{Number: newSerial(t), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
	for _, p := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: p.Cert.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.Cert, a.key)
	must(t, err)
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600))
}

// Client is a configuration that trusts the authority; with a pair it shows that.
func (a *Authority) Client(t testing.TB, shown ...Pair) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	c := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
	for _, p := range shown {
		cert, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		must(t, err)
		c.Certificates = append(c.Certificates, cert)
	}
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(t, err)
	return serial.Add(serial, big.NewInt(1))
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert
}

func write(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
