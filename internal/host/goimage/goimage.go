// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package goimage makes a container image out of a directory with a Go main
// package, without a container engine or a base image.
//
// It runs the go command of this computer, so the directory's code is as
// trusted as any `go build`; its cgo is off. The image holds the static
// program, certificate authorities, the few files that programs look for in
// /etc, and nothing to run but the program, which runs as user 65532. The same
// source and toolchain give the same bytes: no times, no paths of this
// computer. Besides the archive nothing stays, whether it works or not.
package goimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Options say what to build. Only Dir is needed.
type Options struct {
	Dir string
	// Arch is a GOARCH; empty: this computer's.
	Arch string
	// Name of the image; empty: localhost/ and the program's name.
	Name string
	// Tags are Go build tags.
	Tags []string
	// Certificates is a PEM bundle for the image; empty: this computer's, if it has one.
	Certificates string
	// Env is added to the go command's environment.
	Env []string
}

// Result is what was built.
type Result struct {
	Name string // full name in the archive
	ID   string // digest of the configuration, as the machine shows it
	Arch string
	// Program is the program's path in the image.
	Program string
}

var (
	// ErrNoGo: there is no go command.
	ErrNoGo = errors.New("the go command is not installed: get it from go.dev or your distribution, or name an image instead of a directory")
	// ErrNoMain: the directory holds no program.
	ErrNoMain = errors.New("no Go main package")
)

// Write builds the directory's program and writes an image archive that
// LoadImages takes. What go prints about broken code is the error, as go prints it.
func Write(ctx context.Context, o Options, w io.Writer) (Result, error) {
	if o.Arch == "" {
		o.Arch = runtime.GOARCH
	}
	program, err := programName(ctx, o)
	if err != nil {
		return Result{}, err
	}
	if o.Name == "" {
		o.Name = "localhost/" + program
	}
	tag, err := name.NewTag(o.Name)
	if err != nil {
		return Result{}, fmt.Errorf("image name %q: %w", o.Name, err)
	}
	tmp, err := os.MkdirTemp("", "wherry-goimage-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "program")
	if err := compile(ctx, o, bin); err != nil {
		return Result{}, err
	}
	img, err := assemble(o, program, bin)
	if err != nil {
		return Result{}, fmt.Errorf("make the image: %w", err)
	}
	id, err := img.ConfigName()
	if err != nil {
		return Result{}, fmt.Errorf("make the image: %w", err)
	}
	if err := tarball.Write(tag, img, w); err != nil {
		return Result{}, fmt.Errorf("write the image: %w", err)
	}
	return Result{Name: tag.Name(), ID: id.String(), Arch: o.Arch, Program: programPath(program)}, nil
}

func programPath(program string) string { return path.Join("/app", program) }

// goCommand prepares a go command in the directory. A workspace or vendoring of
// the caller's applies, his GOFLAGS too.
func goCommand(ctx context.Context, o Options, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir = o.Dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+o.Arch, "PWD="+o.Dir)
	c.Env = append(c.Env, o.Env...)
	return c
}

// programName checks that there is a program, and names it as go build would.
func programName(ctx context.Context, o Options) (string, error) {
	if _, err := exec.LookPath("go"); err != nil {
		return "", ErrNoGo
	}
	st, err := os.Stat(o.Dir)
	if err != nil {
		return "", fmt.Errorf("build an image: %w", err)
	}
	if !st.IsDir() {
		return "", fmt.Errorf("build an image: %s is not a directory", o.Dir)
	}
	out, err := output(goCommand(ctx, o, "list", "-e", "-tags", strings.Join(o.Tags, ","), "-f", "{{.Name}}\n{{.ImportPath}}\n{{len .GoFiles}}", "."))
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	if len(lines) != 3 || lines[2] == "0" {
		return "", fmt.Errorf("%w in %s: there are no Go files for linux/%s", ErrNoMain, o.Dir, o.Arch)
	}
	if lines[0] != "main" {
		return "", fmt.Errorf("%w in %s: the package there is %q", ErrNoMain, o.Dir, lines[0])
	}
	return imageSafe(path.Base(lines[1]), o.Dir)
}

var unsafeName = regexp.MustCompile(`[^a-z0-9]+`)

// imageSafe turns a program's name into one that an image can have.
func imageSafe(base, dir string) (string, error) {
	if base == "command-line-arguments" || base == "." {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		base = filepath.Base(abs)
	}
	s := strings.Trim(unsafeName.ReplaceAllString(strings.ToLower(base), "-"), "-")
	if s == "" {
		s = "app"
	}
	return s, nil
}

func compile(ctx context.Context, o Options, bin string) error {
	_, err := output(goCommand(ctx, o, "build", "-o", bin, "-trimpath", "-buildvcs=false",
		"-tags", strings.Join(o.Tags, ","), "-ldflags", "-s -w -buildid=", "."))
	return err
}

// output runs a go command; what it printed on standard error is the error.
func output(c *exec.Cmd) (string, error) {
	var out, text bytes.Buffer
	c.Stdout, c.Stderr = &out, &text
	err := c.Run()
	if err == nil {
		return out.String(), nil
	}
	if msg := strings.TrimSpace(text.String()); msg != "" {
		return "", fmt.Errorf("go %s:\n%s", c.Args[1], msg)
	}
	return "", fmt.Errorf("go %s: %w", c.Args[1], err)
}

// user is who programs run as, by number so that no file is needed to resolve it.
const user = 65532

func assemble(o Options, program, bin string) (v1.Image, error) {
	base, err := baseLayer(o.Certificates)
	if err != nil {
		return nil, err
	}
	app, err := programLayer(programPath(program), bin)
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, base, app)
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", o.Arch
	cfg.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Entrypoint: []string{programPath(program)},
		Env:        []string{"PATH=/app", "HOME=/home/nonroot", "SSL_CERT_FILE=" + certificatesPath},
		WorkingDir: "/home/nonroot",
		Labels:     map[string]string{"org.opencontainers.image.title": program},
	}
	if o.Arch == "arm" {
		cfg.Variant = "v7"
	}
	return mutate.ConfigFile(img, cfg)
}

// hostBundles are where systems keep their certificate authorities.
var hostBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
}

// certificates reads the bundle that was named, else this computer's, else none.
func certificates(file string) ([]byte, error) {
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("certificates for the image: %w", err)
		}
		return b, nil
	}
	i := slices.IndexFunc(hostBundles, func(f string) bool { _, err := os.Stat(f); return err == nil })
	if i < 0 {
		return nil, nil
	}
	return os.ReadFile(hostBundles[i])
}
