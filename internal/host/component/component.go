// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package component builds the programs of an image: third-party ones from
// components/NAME, each in a module graph of its own, and Wherry's own from cmd/.
//
// A component is a go.mod with a `tool` line, its go.sum and component.yaml.
// The binary is kept in the cache under the hash of everything that decides
// its bytes: these three files, the Go version, the flags, and for cgo the
// versions of the compiler and of the libraries linked in. What is in the cache
// is never rebuilt and never changed. Wherry's own programs are built each
// time: Go's build cache makes that quick.
//
// All are built with -trimpath, no build id and no VCS stamp: the same
// sources give the same bytes in every directory. Line numbers of the code of
// others are left out (docs/decisions/0012), and of a program that does without it
// the whole runtime (0022). They are Linux programs on
// whatever host; a cgo component on another system than Linux needs a cross
// compiler in CC.
package component

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/internal/format/pclntab"
	"wherry.example/wherry/internal/host/deb"
)

// Builder builds programs for one architecture.
type Builder struct {
	Source   string // the checkout
	Cache    string
	Arch     string // GOARCH
	Progress func(string)
}

// Binary is a built program.
type Binary struct {
	Name   string
	Path   string
	Linked []deb.Candidate // Debian packages linked in
}

// Component builds components/name, or finds it in the cache.
func (b *Builder) Component(ctx context.Context, name string) (Binary, error) {
	r, err := Load(filepath.Join(b.Source, "components", name))
	if err != nil {
		return Binary{}, err
	}
	bin := Binary{Name: r.Binary, Linked: b.linked(ctx, r.Settings)}
	key, err := b.key(ctx, r, bin.Linked)
	if err != nil {
		return bin, fmt.Errorf("component %s: %w", name, err)
	}
	bin.Path = filepath.Join(b.Cache, "component", r.Name+"-"+key)
	if _, err := os.Stat(bin.Path); err == nil {
		return bin, nil
	}
	b.Progress("component " + name + ": building")
	err = b.build(ctx, r.dir, bin.Path, r.Settings, r.Package)
	if err != nil {
		return bin, fmt.Errorf("component %s: %w", name, err)
	}
	return bin, nil
}

// leaveOut are build tags for what modules bring along and Wherry's own programs
// never use: gRPC's tracing pages (whose templates keep the linker from removing
// unused methods) and Intel's cache allocation.
var leaveOut = []string{"grpcnotrace", "no_rdt"}

// Program builds cmd/name of Wherry itself into the file out.
func (b *Builder) Program(ctx context.Context, name, version, out string) (Binary, error) {
	s, err := loadSettings(filepath.Join(b.Source, "cmd", name))
	if err != nil {
		return Binary{}, fmt.Errorf("program %s: read %s: %w", name, programFile, err)
	}
	stamp := "-X wherry.example/wherry/internal/version.Version=" + version
	s.Tags, s.LDFlags = append(s.Tags, leaveOut...), append(s.LDFlags, stamp)
	if err := b.build(ctx, b.Source, out, s, "./cmd/"+name); err != nil {
		return Binary{}, fmt.Errorf("program %s: %w", name, err)
	}
	return Binary{Name: name, Path: out, Linked: b.linked(ctx, s)}, nil
}

// linked describes the Debian packages whose code is in a program.
func (b *Builder) linked(ctx context.Context, s Settings) []deb.Candidate {
	var out []deb.Candidate
	for _, p := range s.Linked {
		out = append(out, deb.Candidate{Package: p, Version: deb.Installed(ctx, p), Architecture: b.Arch})
	}
	return out
}

func (s Settings) flags() []string {
	ld := append([]string{"-s", "-w", "-buildid="}, s.LDFlags...)
	if s.NoRuntime {
		ld = append(ld, "-E=main.entry")
	}
	flags := []string{"-trimpath", "-buildvcs=false", "-tags=" + strings.Join(s.Tags, ","), "-ldflags=" + strings.Join(ld, " ")}
	for _, f := range s.GCFlags {
		flags = append(flags, "-gcflags="+f)
	}
	return flags
}

// build runs `go build` and puts the result at out, whole or not at all.
func (b *Builder) build(ctx context.Context, dir, out string, s Settings, source string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), ".build-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "bin")
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", bin}, s.flags(), []string{source})...)
	cmd.Dir = dir
	cmd.Env = b.environment(s.CGO)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, bytes.TrimSpace(text))
	}
	drop := dropLines
	if s.NoRuntime {
		drop = dropRuntime
	}
	if err := edit(bin, drop); errors.Is(err, pclntab.ErrLayout) { // a newer Go: the program is larger, not worse
		b.Progress(filepath.Base(out) + " stays as large as it is: " + err.Error())
	} else if err != nil {
		return err
	}
	return os.Rename(bin, out)
}

// linesVersion goes into the key of what is cached: it changes with what dropLines does.
const linesVersion = "lines of our own"

// dropLines leaves the line numbers of our own functions in a program: a crash
// is told with those, and with name and offset for the rest.
func dropLines(program []byte) (int, error) { return pclntab.DropLines(program, isOurs) }

// dropRuntime leaves nothing but package main.
func dropRuntime(program []byte) (int, error) {
	return pclntab.OnlyCode(program, func(function string) bool { return strings.HasPrefix(function, "main.") })
}

// edit changes a file in place.
func edit(file string, change func(program []byte) (int, error)) error {
	program, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if _, err := change(program); err != nil {
		return err
	}
	return os.WriteFile(file, program, 0o755)
}

func isOurs(function string) bool {
	return strings.HasPrefix(function, "main.") || strings.HasPrefix(function, "wherry.example/wherry/")
}

// environment is the caller's without what would change the result.
func (b *Builder) environment(cgo bool) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"GOFLAGS", "GOOS", "GOARCH", "GOAMD64", "GOEXPERIMENT", "CGO_ENABLED", "GOWORK"}, key) ||
			strings.HasPrefix(key, "CGO_")
	})
	env = append(env, "GOOS=linux", "GOARCH="+b.Arch, "GOWORK=off", "GOFLAGS=-mod=readonly", "CGO_ENABLED=0")
	if cgo {
		env[len(env)-1] = "CGO_ENABLED=1"
	}
	return env
}

// key hashes all that decides a component's bytes.
func (b *Builder) key(ctx context.Context, r *Recipe, linked []deb.Candidate) (string, error) {
	h := sha256.New()
	for _, s := range r.sources {
		fmt.Fprintf(h, "%d\n%s", len(s), s)
	}
	goVersion, err := firstLine(ctx, r.dir, "go", "version")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n%s\n%q\n%s\n", goVersion, b.Arch, r.flags(), linesVersion)
	if r.CGO {
		cc, err := compiler(ctx)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s\n%v\n", cc, linked)
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

func compiler(ctx context.Context) (string, error) {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	line, err := firstLine(ctx, "", cc, "--version")
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("the C compiler %s is missing: install gcc, libc6-dev, libseccomp-dev and libzstd-dev", cc)
	}
	return cc + " " + line, err
}

func firstLine(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line, nil
}
