package backup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// s3Tries is how often the library tries a request that carries no data; the pauses grow to a second.
const s3Tries = 6

// S3Options names a bucket. They are the parameters of an s3:// location:
//
//	s3://bucket/prefix     the bucket, and what the names of all objects begin with; a "/" is added
//	endpoint=URL           http:// or https:// and host of the server; Amazon's without it
//	region=NAME            asked of the server without it
//	path-style=true|false  whether the bucket is part of the path or of the host name; guessed without it
//	ca=FILE                certificate authorities, in PEM, that the server's certificate may be from, beside the system's
//	credentials=iam        ask the metadata service of the machine or the container, not the environment and the file
//
// Credentials are never part of a location, which ends up in logs. They come from AWS_ACCESS_KEY_ID and
// AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), else from AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials, profile
// AWS_PROFILE or default.
type S3Options struct {
	Location string // as it was given
	Bucket   string
	Prefix   string
	Endpoint string // host[:port]
	Insecure bool   // http
	Region   string
	Lookup   minio.BucketLookupType
	CAFile   string
	IAM      bool
	// FirstPause is that before a request with data is tried again; it doubles each time. 0 means 200 ms.
	FirstPause time.Duration
}

// ParseS3 reads an s3:// location. Errors: ErrLocation.
func ParseS3(location string) (S3Options, error) {
	o := S3Options{Location: location, Endpoint: "s3.amazonaws.com"}
	u, err := url.Parse(location)
	if err != nil {
		return o, fmt.Errorf("%w: %w", ErrLocation, err)
	}
	if u.User != nil {
		return o, fmt.Errorf("%w s3://…@%s: credentials do not belong into a location, which is logged; "+
			"put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws/credentials", ErrLocation, u.Host)
	}
	refuse := func(format string, args ...any) (S3Options, error) {
		return o, fmt.Errorf("%w %q: %s", ErrLocation, location, fmt.Sprintf(format, args...))
	}
	if o.Bucket = u.Host; o.Bucket == "" {
		return refuse("no bucket; give s3://bucket/prefix")
	}
	if o.Prefix = strings.Trim(u.Path, "/"); o.Prefix != "" {
		o.Prefix += "/"
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse("%v", err)
	}
	for name, values := range query {
		value := values[len(values)-1]
		switch name {
		case "endpoint":
			e, err := url.Parse(value)
			if err != nil || e.Host == "" || e.Scheme != "http" && e.Scheme != "https" || strings.Trim(e.Path, "/") != "" || e.User != nil {
				return refuse("endpoint %q is not http://host:port or https://host:port", value)
			}
			o.Endpoint, o.Insecure = e.Host, e.Scheme == "http"
		case "region":
			o.Region = value
		case "path-style":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return refuse("path-style=%s is neither true nor false", value)
			}
			if o.Lookup = minio.BucketLookupDNS; on {
				o.Lookup = minio.BucketLookupPath
			}
		case "ca":
			o.CAFile = value
		case "credentials":
			if o.IAM = value == "iam"; !o.IAM {
				return refuse("credentials=%s: only iam can be chosen; keys come from the environment or ~/.aws/credentials", value)
			}
		default:
			return refuse("unknown parameter %q; there are endpoint, region, path-style, ca, credentials", name)
		}
	}
	return o, nil
}

// s3 is a store in a bucket. An object comes into being when its one request, or the one that completes its parts, is
// answered, which is what makes Put atomic.
type s3 struct {
	options S3Options
	client  *minio.Client
	once    *minio.Client // does not try again by itself
}

// NewS3 makes the client; it does not talk to the server yet.
func NewS3(options S3Options) (Store, error) {
	transport, err := minio.DefaultTransport(!options.Insecure)
	if err != nil {
		return nil, err
	}
	if options.CAFile != "" {
		pool, err := authorities(options.CAFile)
		if err != nil {
			return nil, fmt.Errorf("backup repository %s: %w", options.Location, err)
		}
		if transport.TLSClientConfig == nil {
			transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	s := &s3{options: options}
	for tries, client := range map[int]**minio.Client{s3Tries: &s.client, 1: &s.once} {
		*client, err = minio.New(options.Endpoint, &minio.Options{
			Creds: options.credentials(transport), Secure: !options.Insecure, Transport: transport,
			Region: options.Region, BucketLookup: options.Lookup, MaxRetries: tries,
		})
		if err != nil {
			return nil, fmt.Errorf("backup repository %s: %w", options.Location, err)
		}
		(*client).SetAppInfo("upkeep-backup", strconv.Itoa(manifestFormat))
	}
	return s, nil
}

func authorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}

func (o *S3Options) credentials(transport http.RoundTripper) *credentials.Credentials {
	if o.IAM {
		return credentials.New(&credentials.IAM{Client: &http.Client{Transport: transport}, Region: o.Region})
	}
	return credentials.New(&keys{providers: []credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{},
	}})
}

// keys asks its providers in turn. Unlike the library's chain it does not go on without credentials.
type keys struct {
	providers []credentials.Provider
	current   credentials.Provider
}

var errNoCredentials = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or put them into " +
	"~/.aws/credentials, or add credentials=iam to the location")

func (k *keys) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

func (k *keys) RetrieveWithCredContext(c *credentials.CredContext) (credentials.Value, error) {
	for _, p := range k.providers {
		value, err := p.RetrieveWithCredContext(c)
		if err == nil && value.AccessKeyID != "" && value.SecretAccessKey != "" {
			k.current = p
			return value, nil
		}
	}
	return credentials.Value{}, errNoCredentials
}

func (k *keys) IsExpired() bool { return k.current == nil || k.current.IsExpired() }

func (s *s3) Location() string { return s.options.Location }

func (s *s3) Put(ctx context.Context, name string, expected int64, write func(io.Writer) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	uploaded := make(chan error, 1)
	go func() {
		err := s.upload(ctx, s.options.Prefix+name, expected, r)
		r.CloseWithError(errors.Join(errUpload, err)) // the writer need not go on
		uploaded <- err
	}()
	written := write(&contextWriter{ctx, w})
	if written != nil && !errors.Is(written, errUpload) {
		cancel(written) // what was sent is thrown away
		w.CloseWithError(written)
		<-uploaded
		return written
	}
	w.Close()
	if err := <-uploaded; err != nil {
		return s.explain("writing "+name, err)
	}
	return nil
}

var errUpload = errors.New("the upload ended")

func (s *s3) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	object, err := s.client.GetObject(ctx, s.options.Bucket, s.options.Prefix+name, minio.GetObjectOptions{})
	if err == nil {
		_, err = object.Stat() // so that an object that is not there is noticed here
	}
	if err != nil {
		return nil, s.explain("reading "+name, err)
	}
	return &s3Reader{object, s, name}, nil
}

// s3Reader gives errors their place.
type s3Reader struct {
	*minio.Object
	store *s3
	name  string
}

func (r *s3Reader) Read(p []byte) (int, error) {
	n, err := r.Object.Read(p)
	if err != nil && err != io.EOF {
		err = r.store.explain("reading "+r.name, err)
	}
	return n, err
}

func (s *s3) Stat(ctx context.Context, name string) (ObjectInfo, error) {
	info, err := s.client.StatObject(ctx, s.options.Bucket, s.options.Prefix+name, minio.StatObjectOptions{})
	if err != nil {
		return ObjectInfo{}, s.explain("looking at "+name, err)
	}
	return ObjectInfo{Name: name, Size: info.Size, Modified: info.LastModified}, nil
}

func (s *s3) List(ctx context.Context) (objects []ObjectInfo, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for info := range s.client.ListObjects(ctx, s.options.Bucket, minio.ListObjectsOptions{Prefix: s.options.Prefix}) {
		if info.Err != nil {
			return nil, s.explain("listing", info.Err)
		}
		name := strings.TrimPrefix(info.Key, s.options.Prefix)
		if name == "" || strings.HasSuffix(name, "/") {
			continue // a "directory", which is somebody else's
		}
		objects = append(objects, ObjectInfo{Name: name, Size: info.Size, Modified: info.LastModified})
	}
	slices.SortFunc(objects, func(a, b ObjectInfo) int { return strings.Compare(a.Name, b.Name) })
	return objects, nil
}

func (s *s3) Delete(ctx context.Context, name string) error {
	err := s.client.RemoveObject(ctx, s.options.Bucket, s.options.Prefix+name, minio.RemoveObjectOptions{})
	if err = s.explain("deleting "+name, err); errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

func (s *s3) Sweep(ctx context.Context, before time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for upload := range s.client.ListIncompleteUploads(ctx, s.options.Bucket, s.options.Prefix, false) {
		if upload.Err != nil {
			return s.explain("listing unfinished uploads", upload.Err)
		}
		if !upload.Initiated.Before(before) {
			continue
		}
		if err := s.client.RemoveIncompleteUpload(ctx, s.options.Bucket, upload.Key); err != nil {
			return s.explain("removing an unfinished upload", err)
		}
	}
	return nil
}

// explain says where it happened, and what can be done.
func (s *s3) explain(doing string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	place := fmt.Sprintf("backup repository: bucket %q at %s: %s", s.options.Bucket, s.options.Endpoint, doing)
	response := minio.ToErrorResponse(err)
	switch response.Code {
	case "NoSuchKey":
		return fmt.Errorf("%w: %s", ErrNotExist, place)
	case "NoSuchBucket":
		return fmt.Errorf("%s: there is no such bucket; make it, or correct the location", place)
	case "InvalidAccessKeyId", "XAdminUserNotFound", "XAdminNoSuchUser", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken":
		return fmt.Errorf("%s: the credentials are refused (%s); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "+
			"~/.aws/credentials", place, response.Code)
	case "AccessDenied", "MethodNotAllowed", "AllAccessDisabled":
		return fmt.Errorf("%s: access is denied; the credentials need to list, get, put and delete objects there", place)
	case "XMinioStorageFull", "QuotaExceeded", "StorageFull", "InsufficientStorage", "TooManyBytes":
		return fmt.Errorf("%s: the storage is full (%s); make room, or keep fewer backups", place, response.Code)
	}
	if urlError := (*url.Error)(nil); errors.As(err, &urlError) {
		return fmt.Errorf("%s: %w; check that the endpoint is right and the server is up", place, urlError.Err)
	}
	return fmt.Errorf("%s: %w", place, err)
}
