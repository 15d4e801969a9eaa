package tlsconfig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// SelfSign completes the settings of a side whose certificate is to be made: it makes one for hosts, valid for so many
// years, in dir, or takes the one that an earlier start has left there, if that is valid still. Other settings are
// returned as they are. Source of the certificate's shape: etcd.
func SelfSign(s Settings, dir string, hosts []string, years uint) (Settings, error) {
	if !s.SelfSigned() {
		return s, nil
	}
	if years == 0 {
		return s, errors.New("--self-signed-cert-validity must be at least 1 year")
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if !usable(certFile, keyFile) {
		if err := makePair(certFile, keyFile, hosts, years); err != nil {
			return s, fmt.Errorf("making a self-signed certificate in %s: %w", dir, err)
		}
	}
	s.CertFile, s.KeyFile, s.selfSigned = certFile, keyFile, true
	return s, nil
}

// usable tells whether the two files belong together and the certificate is valid now.
func usable(certFile, keyFile string) bool {
	cert, err := newPair(certFile, keyFile).load()
	now := time.Now()
	return err == nil && cert.Leaf != nil && now.After(cert.Leaf.NotBefore) && now.Before(cert.Leaf.NotAfter)
}

func makePair(certFile, keyFile string, hosts []string, years uint) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"etcd"}},
		NotBefore:             now,
		NotAfter:              now.Add(time.Duration(years) * 365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(certFile), 0o700); err != nil {
		return err
	}
	if err := writePEM(keyFile, 0o600, "EC PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return writePEM(certFile, 0o644, "CERTIFICATE", cert)
}

func writePEM(path string, mode os.FileMode, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
