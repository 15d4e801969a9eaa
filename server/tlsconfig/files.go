package tlsconfig

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
)

// watched is a parsed file, or several that belong together. They are read for every use, so that what replaces them
// counts at once, and parsed again only if their bytes have changed.
type watched[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)

	mu struct {
		sync.Mutex
		contents [][]byte
		value    T
		loaded   bool // contents and value are those of the last success
	}
}

// load returns what the files say now.
func (w *watched[T]) load() (T, error) {
	var none T
	contents := make([][]byte, len(w.paths))
	for i, path := range w.paths {
		var err error
		if contents[i], err = os.ReadFile(path); err != nil {
			return none, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.loaded && equal(contents, w.mu.contents) {
		return w.mu.value, nil
	}
	value, err := w.parse(contents)
	if err != nil {
		return none, err
	}
	w.mu.contents, w.mu.value, w.mu.loaded = contents, value, true
	return value, nil
}

// last returns what the files said when they could last be read.
func (w *watched[T]) last() (T, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mu.value, w.mu.loaded
}

func equal(a, b [][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// Pair is a certificate and its key.
type pair = watched[*tls.Certificate]

func newPair(certFile, keyFile string) *pair {
	return &pair{paths: []string{certFile, keyFile}, parse: func(contents [][]byte) (*tls.Certificate, error) {
		cert, err := tls.X509KeyPair(contents[0], contents[1])
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", certFile, keyFile, err)
		}
		return &cert, nil
	}}
}

func newAuthorities(path string) *watched[*x509.CertPool] {
	return &watched[*x509.CertPool]{paths: []string{path}, parse: func(contents [][]byte) (*x509.CertPool, error) {
		pool, found := x509.NewCertPool(), false
		for rest := contents[0]; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			pool.AddCert(cert)
			found = true
		}
		if !found {
			return nil, fmt.Errorf("%s: no certificate in PEM form in it", path)
		}
		return pool, nil
	}}
}

// revoked is the set of serial numbers in a revocation list, in hexadecimal.
type revoked map[string]bool

func newRevocations(path string) *watched[revoked] {
	return &watched[revoked]{paths: []string{path}, parse: func(contents [][]byte) (revoked, error) {
		der := contents[0]
		if block, _ := pem.Decode(der); block != nil {
			der = block.Bytes
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		set := revoked{}
		for _, entry := range list.RevokedCertificateEntries {
			set[hexSerial(entry.SerialNumber)] = true
		}
		return set, nil
	}}
}

// check refuses certificates whose serial number is in the list.
func (r revoked) check(certs []*x509.Certificate) error {
	for _, cert := range certs {
		if serial := hexSerial(cert.SerialNumber); r[serial] {
			return fmt.Errorf("certificate serial %s revoked", serial)
		}
	}
	return nil
}

func hexSerial(n *big.Int) string { return n.Text(16) }

// errNoPair is what a handshake gets on a side without certificates.
var errNoPair = errors.New("tlsconfig: no certificate and key are configured")
