// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package pstore reads what the kernel left behind when it died.
//
// A kernel that panics writes the end of its log where it outlives the restart:
// with UEFI firmware into variables of the firmware (module efi_pstore), about
// ten of 1 KiB each. The next kernel shows them as files. Take reads them and
// removes them, because firmware has little room for variables and firmware
// that runs full may not start any more. It owns nothing; where the kernel has
// no such store, there is nothing to take, which is no failure. All of it is
// bounded: a variable can be anybody's.
package pstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"wherry.example/wherry/internal/linux/mount"

	"golang.org/x/sys/unix"
)

// Dir is where the kernel shows the records.
const Dir = "/sys/fs/pstore"

const (
	maxRecords = 256
	maxRecord  = 64 << 10
	maxReason  = 300
)

// Report is one death of a kernel.
type Report struct {
	// Kind is the kernel's word: Panic, Oops, Emergency …
	Kind string
	// Reason is the one line that says why.
	Reason string
	// Text is the end of the kernel's log.
	Text string
	Time time.Time
}

// Mount makes the records visible.
func Mount() error {
	return mount.Mount{Source: "pstore", Target: Dir, Type: "pstore", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Needs: Dir}.Do()
}

// record is one file: a part of a death's text.
type record struct {
	kind        string
	count, part int
	text, file  string
	time        time.Time
}

// Take returns what the kernels before this one left, the oldest first, and
// removes it. What can't be read is removed too, and said.
func Take(dir string) ([]Report, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the last kernel left: %w", err)
	}
	var records []record
	var errs []error
	for i, e := range entries {
		if i == maxRecords {
			errs = append(errs, fmt.Errorf("read what the last kernel left: there are more than %d records; the next start reads on", maxRecords))
			break
		}
		r, err := read(filepath.Join(dir, e.Name()))
		if err == nil {
			records = append(records, r)
		}
		errs = append(errs, err, os.Remove(filepath.Join(dir, e.Name())))
	}
	return assemble(records), errors.Join(errs...)
}

// heading is what the kernel puts before each part; part 1 is the log's end.
// Most machines never need it, so it is not made when the program starts.
var heading = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([A-Za-z]+)#(\d{1,9}) Part(\d{1,9})\n`) })

func read(file string) (record, error) {
	f, err := os.Open(file)
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return record{}, err
	}
	r := record{file: filepath.Base(file)}
	if info, err := f.Stat(); err == nil {
		r.time = info.ModTime()
	}
	m := heading().FindSubmatch(data)
	if m == nil {
		return r, fmt.Errorf("%s is not a part of a kernel's log (%d bytes)", r.file, len(data))
	}
	r.kind = string(m[1])
	r.count, _ = strconv.Atoi(string(m[2])) // at most nine digits
	r.part, _ = strconv.Atoi(string(m[3]))
	r.text = strings.ToValidUTF8(string(data[len(m[0]):]), "\uFFFD")
	return r, nil
}

// maxWriting is longer than a dying kernel takes to write all parts, whose
// times differ; two deaths with the same number are further apart or repeat a part.
const maxWriting = time.Minute

// death is a Report that is being put together.
type death struct {
	kind  string
	count int
	parts map[int]record
	time  time.Time
}

func (d death) takes(r record) bool {
	_, has := d.parts[r.part]
	return !has && d.kind == r.kind && d.count == r.count && r.time.Sub(d.time) < maxWriting
}

// assemble puts the parts of each death together.
func assemble(records []record) (reports []Report) {
	slices.SortFunc(records, func(a, b record) int { return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.file, b.file)) })
	var deaths []death
	for _, r := range records {
		i := slices.IndexFunc(deaths, func(d death) bool { return d.takes(r) })
		if i < 0 {
			i = len(deaths)
			deaths = append(deaths, death{r.kind, r.count, map[int]record{}, r.time})
		}
		deaths[i].parts[r.part] = r
	}
	for _, d := range deaths {
		r := Report{Kind: d.kind, Time: d.time}
		for _, n := range slices.Backward(slices.Sorted(maps.Keys(d.parts))) {
			r.Text += d.parts[n].text
		}
		r.Reason = reason(r)
		reports = append(reports, r)
	}
	return reports
}

var reasons = sync.OnceValue(func() []*regexp.Regexp {
	return []*regexp.Regexp{
		regexp.MustCompile(`Kernel panic - not syncing: ([^\r\n]+)`),
		regexp.MustCompile(`(?:\] |^)((?:BUG|Oops|general protection fault|kernel BUG)[:\s][^\r\n]+)`),
	}
})

// reason is the line that says why, else the log's last.
func reason(r Report) string {
	for _, re := range reasons() {
		if m := re.FindStringSubmatch(r.Text); m != nil {
			return clip(m[1])
		}
	}
	lines := strings.Split(strings.TrimSpace(r.Text), "\n")
	return clip(lines[len(lines)-1])
}

func clip(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxReason)], "")
}
