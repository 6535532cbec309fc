// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package sbom

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// licences finds the licences of Go modules in the module cache.
type licences struct {
	cache string
}

func newLicences(ctx context.Context) (*licences, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMODCACHE").Output()
	if err != nil {
		return nil, fmt.Errorf("find the module cache: %w", err)
	}
	return &licences{cache: strings.TrimSpace(string(out))}, nil
}

// module returns the SPDX identifiers of a module, nil if none is recognised.
func (l *licences) module(ctx context.Context, path, version string) ([]string, error) {
	dir := filepath.Join(l.cache, escape(path)+"@"+escape(version))
	entries, err := os.ReadDir(dir)
	if err != nil {
		// The binary came from a cache that outlived the module's sources.
		if err := download(ctx, path, version); err != nil {
			return nil, err
		}
		if entries, err = os.ReadDir(dir); err != nil {
			return nil, fmt.Errorf("licence of %s: %w", path, err)
		}
	}
	return scan(dir, entries)
}

func download(ctx context.Context, path, version string) error {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", path+"@"+version)
	cmd.Dir = os.TempDir() // outside of any module: nothing writes a go.sum
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("download %s@%s: %w: %s", path, version, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// escape is how the module cache writes upper case letters.
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-._].*)?$`)

func scan(dir string, entries []fs.DirEntry) ([]string, error) {
	var ids []string
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		ids = append(ids, classify(string(text))...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// sign is a licence and phrases of its text: all of has are there, none of not.
type sign struct {
	id  string
	has []string
	not []string
}

const (
	bsdGrant      = "redistribution and use in source and binary forms"
	bsdEndorse    = "endorse or promote products derived from"
	bsdAdvertises = "all advertising materials mentioning features"
)

// signs are phrases that each licence's text has and the others have not, in
// lower case with single spaces.
var signs = []sign{
	{"Apache-2.0", []string{"apache license", "version 2.0, january 2004"}, nil},
	{"Apache-2.0", []string{"licensed under the apache license, version 2.0"}, []string{"version 2.0, january 2004"}},
	{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy of", "the above copyright notice and this permission notice"}, nil},
	{"BSD-4-Clause", []string{bsdGrant, bsdAdvertises}, nil},
	{"BSD-3-Clause", []string{bsdGrant, bsdEndorse}, []string{bsdAdvertises}},
	{"BSD-2-Clause", []string{bsdGrant}, []string{bsdEndorse, bsdAdvertises}},
	{"ISC", []string{"permission to use, copy, modify, and/or distribute this software for any purpose", "the above copyright notice and this permission notice"}, nil},
	{"ISC", []string{"permission to use, copy, modify, and distribute this software for any purpose", "the above copyright notice and this permission notice"}, nil},
	{"MPL-2.0", []string{"mozilla public license", "version 2.0"}, nil},
	{"LGPL-3.0-only", []string{"gnu lesser general public license", "version 3, 29 june 2007"}, nil},
	{"LGPL-2.1-only", []string{"gnu lesser general public license", "version 2.1, february 1999"}, nil},
	{"CC0-1.0", []string{"cc0 1.0 universal"}, nil},
	{"Unlicense", []string{"this is free and unencumbered software released into the public domain"}, nil},
}

// classify names the licences whose texts are in the file.
func classify(text string) []string {
	plain := strings.Join(strings.Fields(strings.ToLower(text)), " ")
	contains := func(phrase string) bool { return strings.Contains(plain, phrase) }
	var ids []string
	for _, s := range signs {
		if slices.ContainsFunc(s.has, func(p string) bool { return !contains(p) }) || slices.ContainsFunc(s.not, contains) {
			continue
		}
		if !slices.Contains(ids, s.id) {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// packageLicences are those of the few Debian packages that get into images, as
// their copyright files say.
func packageLicences(name string) []string {
	switch {
	case strings.HasPrefix(name, "linux-image-"):
		return []string{"GPL-2.0-only WITH Linux-syscall-note"}
	case name == "ca-certificates":
		return []string{"MPL-2.0"}
	case name == "libseccomp-dev":
		return []string{"LGPL-2.1-only"}
	case name == "libzstd-dev":
		return []string{"BSD-3-Clause"}
	case name == "libc6-dev":
		return []string{"LGPL-2.1-or-later"}
	}
	return nil
}
