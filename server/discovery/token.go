package discovery

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// What keeps a member from founding a cluster by its token, whoever tries again. The texts are etcd's.
var (
	ErrNoSize  = errors.New("discovery: size key not found")
	ErrBadSize = errors.New("discovery: size key is bad")
	ErrFull    = errors.New("discovery: cluster is full")
)

// prefix of all keys. Source: what etcd 3.7 writes.
const prefix = "/_etcd/registry/"

// retryPause is how long a discovery service that does not answer is left alone.
const retryPause = time.Second

// Service is where members meet.
type Service struct {
	Token     string
	Endpoints []string

	DialTimeout, RequestTimeout     time.Duration // a DialTimeout of 0 waits as long as a request may
	KeepAliveTime, KeepAliveTimeout time.Duration

	InsecureTransport, InsecureSkipVerify bool
	CertFile, KeyFile, TrustedCAFile      string
	User, Password                        string

	Logger *zap.Logger
}

// ByToken registers self, whose ID is id, and waits until all founders have registered. It goes on while the service
// does not answer, until ctx ends.
func (s *Service) ByToken(ctx context.Context, id uint64, self Founder) ([]Founder, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	m := meeting{service: s, client: client, id: id, self: self}
	for {
		founders, err := m.attend(ctx)
		switch {
		case err == nil:
			return founders, nil
		case ctx.Err() != nil:
			return nil, errors.Join(ctx.Err(), err)
		case errors.Is(err, ErrNoSize), errors.Is(err, ErrBadSize), errors.Is(err, ErrFull), errors.Is(err, errMalformed):
			return nil, fmt.Errorf("%w (--discovery-token %q)", err, s.Token)
		}
		s.Logger.Warn("the discovery service does not answer; trying again", zap.Strings("discovery-endpoints", s.Endpoints), zap.Error(err))
		if !pause(ctx) {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

func pause(ctx context.Context) bool {
	timer := time.NewTimer(retryPause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (s *Service) connect(ctx context.Context) (*clientv3.Client, error) {
	cfg := clientv3.Config{
		Endpoints: s.Endpoints, Context: ctx, Logger: zap.NewNop(), DialTimeout: cmp.Or(s.DialTimeout, s.RequestTimeout),
		DialKeepAliveTime: s.KeepAliveTime, DialKeepAliveTimeout: s.KeepAliveTimeout,
		Username: s.User, Password: s.Password,
	}
	if name, password, both := strings.Cut(s.User, ":"); both {
		cfg.Username, cfg.Password = name, password
	}
	if !s.InsecureTransport {
		var err error
		if cfg.TLS, err = s.tls(); err != nil {
			return nil, err
		}
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to --discovery-endpoints %s: %w", strings.Join(s.Endpoints, ","), err)
	}
	return client, nil
}

func (s *Service) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.InsecureSkipVerify} //nolint:gosec // asked for by a flag
	if s.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("--discovery-cert and --discovery-key: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if s.TrustedCAFile != "" {
		text, err := os.ReadFile(s.TrustedCAFile)
		if err != nil {
			return nil, fmt.Errorf("--discovery-cacert: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--discovery-cacert %q holds no certificate in PEM", s.TrustedCAFile)
		}
	}
	return cfg, nil
}

// meeting is one member's stay at the service.
type meeting struct {
	service *Service
	client  *clientv3.Client
	id      uint64
	self    Founder
}

func (m *meeting) key(parts ...string) string {
	return prefix + m.service.Token + "/" + strings.Join(parts, "/")
}

// attend registers and waits.
func (m *meeting) attend(ctx context.Context) ([]Founder, error) {
	size, err := m.size(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := m.present(ctx, size); err != nil {
		return nil, err // full before we came
	}
	if err := m.register(ctx); err != nil {
		return nil, err
	}
	for {
		here, err := m.present(ctx, size)
		if err != nil {
			return nil, err
		}
		if len(here.founders) == size {
			return here.founders, nil
		}
		m.service.Logger.Info("waiting for peers from discovery service", zap.String("discovery-token", m.service.Token),
			zap.Int("cluster-size", size), zap.Int("found-peers", len(here.founders)))
		if err := m.arrival(ctx, here.revision); err != nil {
			return nil, err
		}
	}
}

func (m *meeting) size(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, m.service.RequestTimeout)
	defer cancel()
	resp, err := m.client.Get(ctx, m.key("_config", "size"))
	switch {
	case err != nil:
		return 0, err
	case len(resp.Kvs) == 0:
		return 0, ErrNoSize
	}
	size, err := strconv.Atoi(string(resp.Kvs[0].Value))
	if err != nil || size <= 0 {
		return 0, fmt.Errorf("%w: %q", ErrBadSize, resp.Kvs[0].Value)
	}
	return size, nil
}

// register writes the member's key unless it is there from an earlier attempt.
func (m *meeting) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.service.RequestTimeout)
	defer cancel()
	key := m.key("members", strconv.FormatUint(m.id, 16))
	_, err := m.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, m.self.text())).Commit()
	return err
}

// attendance is who has registered, of those that count, as of a revision.
type attendance struct {
	founders []Founder
	revision int64
}

// present lists the first size members that have registered; ErrFull if self is too late.
func (m *meeting) present(ctx context.Context, size int) (attendance, error) {
	ctx, cancel := context.WithTimeout(ctx, m.service.RequestTimeout)
	defer cancel()
	resp, err := m.client.Get(ctx, m.key("members")+"/", clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
	if err != nil {
		return attendance{}, err
	}
	here := attendance{revision: resp.Header.Revision}
	own := m.key("members", strconv.FormatUint(m.id, 16))
	found := false
	for _, kv := range resp.Kvs[:min(size, len(resp.Kvs))] {
		f, err := parseFounder(string(kv.Value))
		if err != nil {
			return here, fmt.Errorf("key %s: %w", kv.Key, err)
		}
		found = found || string(kv.Key) == own
		here.founders = append(here.founders, f)
	}
	if !found && len(here.founders) == size {
		return here, ErrFull
	}
	return here, nil
}

// arrival waits until somebody registers after a revision.
func (m *meeting) arrival(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for resp := range m.client.Watch(ctx, m.key("members")+"/", clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if err := resp.Err(); err != nil {
			return err
		}
		if len(resp.Events) > 0 {
			return nil
		}
	}
	return cmp.Or(ctx.Err(), errors.New("the watch has ended"))
}

// text is a founder as it stands at the service: name=url,name=url.
func (f Founder) text() string {
	pairs := make([]string, len(f.PeerURLs))
	for i, u := range f.PeerURLs {
		pairs[i] = f.Name + "=" + u
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

var errMalformed = errors.New("not of the form name=peerURL,name=peerURL")

func parseFounder(text string) (Founder, error) {
	var f Founder
	for pair := range strings.SplitSeq(text, ",") {
		name, u, ok := strings.Cut(pair, "=")
		if !ok || name == "" || u == "" || f.Name != "" && f.Name != name {
			return f, fmt.Errorf("%q is %w", text, errMalformed)
		}
		f.Name = name
		f.PeerURLs = append(f.PeerURLs, u)
	}
	return f, nil
}
