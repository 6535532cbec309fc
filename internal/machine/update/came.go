// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/release"
)

// came is what has to be remembered beside a download to tell afterwards how it came, over restarts: what lies there
// tells the rest. Where it is lost, the whole file is taken to have come.
type came struct {
	// Made is how many bytes of the file, from its beginning on, were made out of a delta.
	Made int64 `json:"made,omitempty"`
	// Wasted is what came and is no part of a file that lies there.
	Wasted int64  `json:"wasted,omitempty"`
	Note   string `json:"note,omitempty"` // why the delta was not taken

	file string
}

// maxCame is more than one has.
const maxCame = 4 << 10

// cameBeside reads what is remembered of a download.
func cameBeside(osFile *os.File) came {
	c := came{file: beside(osFile, ".came")}
	if info, err := os.Stat(c.file); err != nil || info.Size() > maxCame {
		return c
	}
	data, err := os.ReadFile(c.file)
	if err != nil || json.Unmarshal(data, &c) != nil || c.Made < 0 || c.Wasted < 0 {
		return came{file: c.file}
	}
	return c
}

// beside is a file that belongs to a download.
func beside(osFile *os.File, ending string) string {
	return strings.TrimSuffix(osFile.Name(), ".efi") + ending
}

func (c came) save() error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return atomicfile.Write(c.file, data, 0o600)
}

// tell fills in how a file that is complete came.
func (c came) tell(f *fetched) {
	f.delta = c.Made == f.file.Bytes
	f.bytes = f.file.Bytes - c.Made + c.Wasted
	f.note = c.Note
	if info, err := os.Stat(beside(f.osFile, ".delta")); err == nil {
		f.bytes += info.Size()
	}
}

// grew accounts for a download that went from had to has bytes while so many came: where a server sends from the
// beginning, or what was there was something else, these are more than it grew by.
func (c *came) grew(file release.File, had, has, wire int64) {
	if had == file.Bytes && wire > 0 { // it was complete, and not the right one
		c.Wasted += had - c.Made
		c.Made, had = 0, 0
	}
	c.Wasted += max(0, wire-(has-had))
}

// metered counts what comes from a source.
type metered struct {
	release.Source
	came *atomic.Int64
}

func (m metered) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	body, start, err := m.Source.Open(ctx, name, offset)
	if err != nil {
		return body, start, err
	}
	return meteredBody{body, m.came}, start, nil
}

type meteredBody struct {
	io.ReadCloser
	came *atomic.Int64
}

func (b meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.came.Add(int64(n))
	return n, err
}
