package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// zstdMagic begins every zstd stream. Source: RFC 8878, 3.1.1. No database and no snapshot begins like that: their
// first bytes are the number of page 0.
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// Unpack makes a file that was saved compressed readable for everything else in this package. It returns path itself if
// the file is not compressed, and otherwise a decompressed copy in the directory for temporary files. remove must be
// called in any case.
func Unpack(ctx context.Context, path string) (plain string, remove func() error, err error) {
	keep := func() error { return nil }
	from, err := os.Open(path)
	if err != nil {
		return "", keep, err
	}
	defer from.Close()
	head := make([]byte, len(zstdMagic))
	if _, err := io.ReadFull(from, head); err != nil || !bytes.Equal(head, zstdMagic) {
		return path, keep, nil // whatever it is, others say what is wrong with it
	}
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return "", keep, err
	}
	to, err := os.CreateTemp("", "upkeep-snapshot-*.db")
	if err != nil {
		return "", keep, fmt.Errorf("decompress %s: %w; TMPDIR names another directory", path, err)
	}
	err = errors.Join(decompress(ctx, from, to), to.Close())
	if err != nil {
		return "", keep, errors.Join(fmt.Errorf("decompress %s: %w", path, err), os.Remove(to.Name()))
	}
	return to.Name(), func() error { return os.Remove(to.Name()) }, nil
}

func decompress(ctx context.Context, from io.Reader, to *os.File) error {
	stream, err := zstd.NewReader(&contextReader{ctx: ctx, Reader: from}, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer stream.Close()
	_, err = io.Copy(to, stream)
	var failed *os.PathError
	switch {
	case errors.As(err, &failed): // the copy's file
		return fmt.Errorf("%w; TMPDIR names another directory", err)
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("the compressed stream is damaged or was cut off: %w", err)
	}
	return err
}

// compressor is the zstd stream that a snapshot is saved as. It works on the caller's goroutine.
func compressor(to io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
}
