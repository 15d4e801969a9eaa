package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
)

const (
	// minPartBytes is the smallest part of a large object, and how much of it is held in memory. Smaller objects travel in
	// one request.
	minPartBytes = 16 << 20
	// maxParts is a little below what S3 allows, since the expected size is an estimate.
	maxParts = 9000
	// uploadTries is how often a request that carries data is tried, with pauses that grow to two seconds.
	uploadTries  = 6
	defaultPause = 200 * time.Millisecond
	maxPause     = 2 * time.Second
)

// upload sends what r yields; an error of r leaves no object. Parts are sent one after the other out of one buffer.
//
// The requests are tried again here and not by the library: that rewinds the reader of a request which its transport may
// still be reading. Each try gets a reader of its own, and a buffer that was part of a failed one is not filled again.
func (s *s3) upload(ctx context.Context, key string, expected int64, r io.Reader) error {
	buffer := make([]byte, min(max(expected+expected/8, 64<<10), s.partBytes(expected)))
	n, err := io.ReadFull(r, buffer)
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		_, err := s.try(ctx, func() error {
			_, err := s.once.PutObject(ctx, s.options.Bucket, key, bytes.NewReader(buffer[:n]), int64(n), minio.PutObjectOptions{
				ContentType: contentType, SendContentMd5: true, DisableMultipart: true,
			})
			return err
		})
		return err
	case err != nil:
		return err
	}
	core := minio.Core{Client: s.once}
	var id string
	if _, err := s.try(ctx, func() (err error) {
		id, err = core.NewMultipartUpload(ctx, s.options.Bucket, key, minio.PutObjectOptions{ContentType: contentType})
		return err
	}); err != nil {
		return err
	}
	u := &multipart{s3: s, core: core, key: key, id: id, first: buffer, partBytes: s.partBytes(expected)}
	if err := u.run(ctx, r); err != nil {
		// The context may be what ended it. What cannot be aborted is removed by Sweep.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardPatience)
		defer cancel()
		_ = core.AbortMultipartUpload(ctx, s.options.Bucket, key, id)
		return err
	}
	return nil
}

const contentType = "application/octet-stream"

func (s *s3) partBytes(expected int64) int64 {
	return max(minPartBytes, (expected/maxParts+(1<<20))>>20<<20)
}

// try tells, besides, whether a try has failed: its transport may go on to read what it was given.
func (s *s3) try(ctx context.Context, do func() error) (failed bool, err error) {
	pause := cmp.Or(s.options.FirstPause, defaultPause)
	for n := 1; ; n++ {
		err = do()
		if err == nil || n == uploadTries || !worthRetrying(ctx, err) {
			return failed || err != nil, err
		}
		failed = true
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return true, context.Cause(ctx)
		}
		pause = min(2*pause, maxPause)
	}
}

// worthRetrying: the server has not refused it for good.
func worthRetrying(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, errNoCredentials) {
		return false
	}
	response := minio.ErrorResponse{}
	if !errors.As(err, &response) {
		return true
	}
	switch code := response.StatusCode; code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	default:
		return code < 400 || code >= 500
	}
}

// multipart is one object that travels in parts.
type multipart struct {
	*s3
	core      minio.Core
	key, id   string
	first     []byte // what was read to find out that it is large
	partBytes int64
	parts     []minio.CompletePart
	size      int64
}

func (u *multipart) run(ctx context.Context, r io.Reader) error {
	buffer := make([]byte, u.partBytes)
	in := io.MultiReader(bytes.NewReader(u.first), r)
	for {
		n, err := io.ReadFull(in, buffer)
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return err
		}
		failed, sendErr := u.send(ctx, buffer[:n])
		if sendErr != nil {
			return sendErr
		}
		if err == io.ErrUnexpectedEOF {
			break
		}
		if failed {
			buffer = make([]byte, u.partBytes)
		}
	}
	_, err := u.try(ctx, func() error {
		_, err := u.core.CompleteMultipartUpload(ctx, u.options.Bucket, u.key, u.id, u.parts, minio.PutObjectOptions{})
		return err
	})
	if err == nil {
		return nil
	}
	// Its answer may have been lost, and then the upload is not there a second time.
	if info, statErr := u.client.StatObject(ctx, u.options.Bucket, u.key, minio.StatObjectOptions{}); statErr == nil && info.Size == u.size {
		return nil
	}
	return err
}

func (u *multipart) send(ctx context.Context, part []byte) (failed bool, err error) {
	number := len(u.parts) + 1
	sum := md5.Sum(part)
	failed, err = u.try(ctx, func() error {
		sent, err := u.core.PutObjectPart(ctx, u.options.Bucket, u.key, u.id, number, bytes.NewReader(part), int64(len(part)),
			minio.PutObjectPartOptions{Md5Base64: base64.StdEncoding.EncodeToString(sum[:])})
		if err == nil {
			u.parts = append(u.parts, minio.CompletePart{PartNumber: number, ETag: sent.ETag})
		}
		return err
	})
	u.size += int64(len(part))
	return failed, err
}
