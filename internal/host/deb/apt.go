// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoApt is why nothing can be fetched on systems other than Debian's family.
var ErrNoApt = errors.New("this system has no apt-get")

// Candidate is the version of a package that apt would install.
type Candidate struct {
	Package      string
	Version      string
	Architecture string
	Depends      []string // names only, alternatives left out
}

// Resolve asks apt for the candidate of a package.
func Resolve(ctx context.Context, name string) (Candidate, error) {
	out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		if errors.Is(err, ErrNoApt) {
			return Candidate{}, err
		}
		return Candidate{}, fmt.Errorf("find package %s: %w\napt does not know it: are its lists there? Run `apt-get update` as root and try again", name, err)
	}
	c := parseCandidate(out)
	if c.Version == "" {
		return c, fmt.Errorf("find package %s: apt offers no version of it; run `apt-get update` as root and try again", name)
	}
	return c, nil
}

func parseCandidate(text string) Candidate {
	first, _, _ := strings.Cut(text, "\n\n")
	control := parseControl(first)
	c := Candidate{Package: control.Package, Version: control.Version, Architecture: control.Architecture}
	for line := range strings.Lines(first) {
		if list, ok := strings.CutPrefix(line, "Depends:"); ok {
			c.Depends = dependNames(list)
		}
	}
	return c
}

func dependNames(list string) []string {
	var names []string
	for d := range strings.SplitSeq(list, ",") {
		if f := strings.Fields(d); len(f) > 0 && !strings.Contains(d, "|") {
			names = append(names, f[0])
		}
	}
	return names
}

// Fetch has apt download a candidate into dir, and returns the file's path.
// It needs no root.
func Fetch(ctx context.Context, c Candidate, dir string) (string, error) {
	if _, err := run(ctx, dir, "apt-get", "-qq", "download", c.Package+"="+c.Version); err != nil {
		return "", fmt.Errorf("fetch package %s %s: %w", c.Package, c.Version, err)
	}
	// A colon of the version (the epoch) is escaped in the name, so look instead of guessing.
	found, err := filepath.Glob(filepath.Join(dir, c.Package+"_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("fetch package %s %s: apt-get left %d files", c.Package, c.Version, len(found))
	}
	return found[0], nil
}

// Installed returns the version of an installed package, "" if it is not.
func Installed(ctx context.Context, name string) string {
	out, err := run(ctx, "", "dpkg-query", "-W", "-f=${Version}", name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	if _, err := exec.LookPath(name); err != nil {
		return "", ErrNoApt
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, lastLine(stderr.String()))
	}
	return stdout.String(), nil
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
