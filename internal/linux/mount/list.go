// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// Entry is one line of mountinfo: what is mounted where.
type Entry struct {
	Device string // major:minor
	Target string
	Type   string
	Source string
}

// maxMountinfo bounds what List reads: 200 containers make about 2 MB.
const maxMountinfo = 64 << 20

// List returns the mounts that this process sees, in the order in which they were made.
func List() ([]Entry, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMountinfo))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return Parse(string(text)), nil
}

// Parse reads the text of /proc/PID/mountinfo. Lines that it does not
// understand are left out.
func Parse(text string) []Entry {
	var out []Entry
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 2 {
			continue
		}
		out = append(out, Entry{Device: left[2], Target: unescape(left[4]), Type: right[0], Source: unescape(right[1])})
	}
	return out
}

// unescape undoes the octal escapes that the kernel writes for blanks and backslashes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) bool {
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' && s[2] >= '0' && s[2] <= '7'
}
