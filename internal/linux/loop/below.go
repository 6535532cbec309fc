// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"os"
	"path/filepath"
	"strings"
)

// maxDepth bounds how many devices lie upon each other.
const maxDepth = 8

// Name returns the name of a block device, such as loop0, for its number as
// mountinfo writes it (major:minor); empty where there is none.
func Name(sysfs, number string) string {
	link, err := os.Readlink(filepath.Join(sysfs, "dev", "block", number))
	if err != nil {
		return ""
	}
	return filepath.Base(link)
}

// Backing returns what a loop device reads; empty for one that reads nothing and for others.
func Backing(sysfs, name string) string {
	text, err := os.ReadFile(filepath.Join(sysfs, "class", "block", name, "loop", "backing_file"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// Files returns the files that a block device reads, through loop devices and
// the device mapper. Their paths are those that the kernel shows this process.
func Files(sysfs, name string) []string { return files(sysfs, name, maxDepth) }

func files(sysfs, name string, depth int) []string {
	if name == "" || depth == 0 {
		return nil
	}
	backing := Backing(sysfs, name)
	if device, ok := strings.CutPrefix(backing, "/dev/"); ok {
		return files(sysfs, strings.ReplaceAll(device, "/", "!"), depth-1)
	}
	if backing != "" {
		return []string{backing}
	}
	var out []string
	slaves, _ := os.ReadDir(filepath.Join(sysfs, "class", "block", name, "slaves"))
	for _, s := range slaves {
		out = append(out, files(sysfs, s.Name(), depth-1)...)
	}
	return out
}
