package backup_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/upkeep-kv/upkeep/snapshot/backup"
	"github.com/upkeep-kv/upkeep/tests/ports"
	"github.com/upkeep-kv/upkeep/tests/proc"
)

const (
	accessKey, secretKey = "upkeep-test", "upkeep-test-secret"
	bucketName           = "backups"
)

// gateway is a real server that speaks S3, on a directory.
type gateway struct {
	t       testing.TB
	root    string
	port    int
	tls     []string
	process *exec.Cmd
}

// startGateway runs one with an empty bucket.
func startGateway(t testing.TB, flags ...string) *gateway {
	t.Helper()
	g := &gateway{t: t, root: t.TempDir(), port: ports.Free(t, 1)[0], tls: flags}
	must(t, os.MkdirAll(filepath.Join(g.root, "data"), 0o700))
	must(t, os.MkdirAll(filepath.Join(g.root, "sidecar"), 0o700))
	t.Cleanup(g.kill)
	t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
	g.start("")
	return g
}

// start runs the server; limit is a command for the shell before that, such as a ulimit.
func (g *gateway) start(limit string, flags ...string) {
	g.t.Helper()
	args := []string{"-c", limit + "\nexec \"$0\" \"$@\"", proc.Peer(g.t, "versitygw"), "--quiet",
		"--port", g.host(), "--access", accessKey, "--secret", secretKey}
	args = append(append(args, g.tls...), flags...)
	args = append(args, "posix", "--sidecar", filepath.Join(g.root, "sidecar"), filepath.Join(g.root, "data"))
	g.process = exec.Command("/bin/sh", args...)
	var output bytes.Buffer
	g.process.Stdout, g.process.Stderr = &output, &output
	must(g.t, g.process.Start())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", g.host()); err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			g.kill()
			g.t.Fatalf("the S3 server does not answer:\n%s", output.String())
		}
	}
}

func (g *gateway) kill() {
	if g.process != nil && g.process.ProcessState == nil {
		g.process.Process.Kill()
		g.process.Wait()
	}
}

func (g *gateway) host() string { return fmt.Sprintf("127.0.0.1:%d", g.port) }

func (g *gateway) location(prefix string) string {
	return fmt.Sprintf("s3://%s/%s?endpoint=http://%s&region=us-east-1&path-style=true", bucketName, prefix, g.host())
}

func (g *gateway) makeBucket() {
	g.t.Helper()
	client, err := minio.New(g.host(), &minio.Options{Creds: credentials.NewStaticV4(accessKey, secretKey, "")})
	must(g.t, err)
	must(g.t, client.MakeBucket(context.Background(), bucketName, minio.MakeBucketOptions{}))
}

// store opens a location; a bucket's with short pauses before what failed is tried again.
func store(t testing.TB, location string) backup.Store {
	t.Helper()
	if !strings.HasPrefix(location, "s3:") {
		s, err := backup.OpenStore(location)
		must(t, err)
		return s
	}
	options, err := backup.ParseS3(location)
	must(t, err)
	options.FirstPause = 10 * time.Millisecond
	s, err := backup.NewS3(options)
	must(t, err)
	return s
}

// TestStores does the same to a directory and to a bucket.
func TestStores(t *testing.T) {
	t.Run("directory", func(t *testing.T) {
		testStore(t, store(t, "file://"+filepath.Join(t.TempDir(), "a", "b")), 5<<20)
	})
	t.Run("bucket", func(t *testing.T) {
		g := startGateway(t)
		g.makeBucket()
		testStore(t, store(t, g.location("some/prefix/")), 20<<20)
		other, err := store(t, g.location("some/pref")).List(context.Background())
		if err != nil || len(other) != 0 {
			t.Errorf("another prefix lists %v, %v", other, err)
		}
	})
}

func testStore(t *testing.T, s backup.Store, large int) {
	ctx := context.Background()
	content := make([]byte, large)
	mrand.NewChaCha8([32]byte{}).Read(content)
	put := func(name, text string, expected int64) {
		t.Helper()
		must(t, s.Put(ctx, name, expected, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		}))
	}
	names := func() string {
		t.Helper()
		objects, err := s.List(ctx)
		must(t, err)
		var out []string
		for _, o := range objects {
			out = append(out, fmt.Sprintf("%s:%d", o.Name, o.Size))
		}
		return strings.Join(out, " ")
	}
	get := func(name string) string {
		t.Helper()
		r, err := s.Get(ctx, name)
		return readAll(t, r, err)
	}
	if names() != "" {
		t.Fatalf("at the start: %s", names())
	}
	put("b", "two", 3)
	put("a", "", 0)
	put("b", "three", 1)
	put("c", string(content), int64(large)/10)
	if want := fmt.Sprintf("a:0 b:5 c:%d", large); names() != want {
		t.Fatalf("%s, wanted %s", names(), want)
	}
	if get("b") != "three" || get("a") != "" || get("c") != string(content) {
		t.Fatal("what is read is not what was written")
	}
	if info, err := s.Stat(ctx, "b"); err != nil || info.Size != 5 || time.Since(info.Modified) > time.Hour {
		t.Fatalf("%+v, %v", info, err)
	}
	for _, err := range []error{
		func() error { _, err := s.Get(ctx, "d"); return err }(),
		func() error { _, err := s.Stat(ctx, "d"); return err }(),
	} {
		if !errors.Is(err, backup.ErrNotExist) {
			t.Errorf("an object that is not there: %v", err)
		}
	}
	// A writer that fails leaves what was there, be it early or late.
	broken := errors.New("broken")
	for _, n := range []int{0, 10, large} {
		for _, name := range []string{"b", "e"} {
			err := s.Put(ctx, name, int64(large), func(w io.Writer) error {
				if _, err := w.Write(content[:n]); err != nil {
					return err
				}
				return broken
			})
			if !errors.Is(err, broken) {
				t.Fatalf("after %d bytes: %v", n, err)
			}
		}
	}
	ended, cancel := context.WithCancel(ctx)
	err := s.Put(ended, "e", int64(large), func(w io.Writer) error {
		cancel()
		_, err := w.Write(content)
		return err
	})
	if err == nil {
		t.Fatal("a write whose context had ended went through")
	}
	if want := fmt.Sprintf("a:0 b:5 c:%d", large); names() != want || get("b") != "three" {
		t.Fatalf("after failed writes: %s", names())
	}
	must(t, s.Delete(ctx, "a"))
	must(t, s.Delete(ctx, "a"))
	must(t, s.Sweep(ctx, time.Now().Add(time.Hour)))
	if want := fmt.Sprintf("b:5 c:%d", large); names() != want {
		t.Fatalf("%s, wanted %s", names(), want)
	}
}

// TestBucketFaults: each fault is one clear error, and nothing is listed that is not whole.
func TestBucketFaults(t *testing.T) {
	ctx := context.Background()
	g := startGateway(t)
	refused := func(location string, want ...string) {
		t.Helper()
		_, err := store(t, location).List(ctx)
		for _, text := range append(want, bucketName, g.host()) {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%v, wanted %q in it", err, text)
			}
		}
	}
	refused(g.location(""), "no such bucket")
	g.makeBucket()
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	refused(g.location(""), "credentials are refused", "AWS_SECRET_ACCESS_KEY")
	t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
	refused(g.location(""), "credentials are refused")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "missing"))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "missing"))
	refused(g.location(""), "no credentials")
	file := filepath.Join(t.TempDir(), "credentials")
	must(t, os.WriteFile(file, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", accessKey, secretKey), 0o600))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	if _, err := store(t, g.location("")).List(ctx); err != nil {
		t.Errorf("credentials in a file: %v", err)
	}

	m := newMember(t)
	m.write("a=1")
	s := store(t, g.location("prod"))
	r := backup.NewRepository(s)
	m.run(r, backup.Full)
	content := make([]byte, 40<<20)
	mrand.NewChaCha8([32]byte{}).Read(content)
	one := func() {
		t.Helper()
		inventory, err := r.List(ctx)
		must(t, err)
		if len(inventory.Backups) != 1 || len(inventory.Problems) > 0 || len(inventory.Strays) > 0 {
			t.Fatalf("%d backups, %v, strays %v", len(inventory.Backups), inventory.Problems, inventory.Strays)
		}
	}
	// The server is killed in the middle of an upload.
	err := s.Put(ctx, "20261120T120000Z-full-1200-5f0c81aa07.db", int64(len(content)), func(w io.Writer) error {
		_, err := w.Write(content[:30<<20])
		g.kill()
		if err == nil {
			_, err = w.Write(content[30<<20:])
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "server is up") {
		t.Errorf("with the server gone: %v", err)
	}
	g.start("")
	one()
	// The disk of the server is full: no file may become larger than 4 MiB.
	g.kill()
	g.start("ulimit -f 8192")
	err = s.Put(ctx, "20261120T120000Z-full-1200-5f0c81aa07.db", int64(len(content)), func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	if err == nil || !strings.Contains(err.Error(), bucketName) {
		t.Errorf("with the storage full: %v", err)
	}
	one()
	// It may only be read.
	g.kill()
	g.start("", "--readonly")
	if _, err := backup.Run(ctx, m.options(r, backup.Full)); err == nil || !strings.Contains(err.Error(), "access is denied") {
		t.Errorf("a bucket that can only be read: %v", err)
	}
	one()
	g.kill()
	g.start("")
	m.write("a=2")
	if b := m.run(r, backup.Incremental); b.Kind != backup.Incremental {
		t.Errorf("afterwards: %s because %s", b.Kind, b.Reason)
	}
	restored(t, r, backup.Target{})
}

// TestBucketTLS: an authority of one's own is given in the location.
func TestBucketTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	selfSign(t, cert, key)
	g := startGateway(t, "--cert", cert, "--key", key)
	location := fmt.Sprintf("s3://%s?endpoint=https://%s&region=us-east-1&path-style=true", bucketName, g.host())
	if _, err := store(t, location).List(context.Background()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	_, err := store(t, location+"&ca="+cert).List(context.Background())
	if err == nil || !strings.Contains(err.Error(), "no such bucket") {
		t.Errorf("a known one: %v", err)
	}
	if _, err := backup.OpenStore(location + "&ca=" + key + "x"); err == nil || !strings.Contains(err.Error(), key) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func selfSign(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "s3"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	der, err = x509.MarshalECPrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600))
}

// TestLocations: what names no repository is refused before anything is done, and no secret is repeated.
func TestLocations(t *testing.T) {
	for location, want := range map[string]string{
		"":                                  "give a directory or s3://bucket/prefix",
		"ftp://host/dir":                    `unknown scheme "ftp"`,
		"file://relative":                   "absolute path",
		"s3://":                             "no bucket",
		"s3://key:secret@bucket/prefix":     "credentials do not belong",
		"s3://b?endpoint=host:9000":         "is not http://host:port",
		"s3://b?endpoint=http://host/path":  "is not http://host:port",
		"s3://b?pathstyle=true":             `unknown parameter "pathstyle"`,
		"s3://b?path-style=maybe":           "neither true nor false",
		"s3://b?credentials=AKIA":           "only iam can be chosen",
		"s3://b?ca=/nonexistent/ca.pem":     "/nonexistent/ca.pem",
		"s3://Not_A_Bucket?secret=12345678": `unknown parameter "secret"`,
	} {
		_, err := backup.OpenStore(location)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, wanted %q in it", location, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "key:secret") {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
}
