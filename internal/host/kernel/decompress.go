// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"
)

// maxModule bounds one module, compressed and not.
const maxModule = 64 << 20

func isModule(name string) bool {
	return strings.HasSuffix(name, ".ko") || strings.HasSuffix(name, ".ko.xz") || strings.HasSuffix(name, ".ko.zst")
}

// plainName is the name of a module's file without what compression added.
func plainName(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), ".xz"), ".zst")
}

// decompressors write modules into a directory, on all processors at once: the
// package holds over a thousand.
type decompressors struct {
	group *errgroup.Group
	ctx   context.Context
	out   string
}

func startDecompressors(ctx context.Context, out string) *decompressors {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0) + 1)
	return &decompressors{group: g, ctx: ctx, out: out}
}

func (d *decompressors) add(name string, r io.Reader) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	packed, err := readBounded(r)
	if err != nil {
		return err
	}
	d.group.Go(func() error {
		plain, err := decompress(name, packed)
		if err != nil {
			return fmt.Errorf("decompress module %s: %w", name, err)
		}
		return os.WriteFile(filepath.Join(d.out, plainName(name)), plain, 0o644)
	})
	return nil
}

func (d *decompressors) wait() error { return d.group.Wait() }

func decompress(name string, packed []byte) ([]byte, error) {
	switch filepath.Ext(name) {
	case ".xz":
		r, err := xz.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		return readBounded(r)
	case ".zst":
		r, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readBounded(r)
	}
	return packed, nil
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxModule {
		return nil, errors.New("larger than any kernel module")
	}
	return b, nil
}
