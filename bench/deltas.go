// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"wherry.example/wherry/internal/host/differ"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/host/publish"
	"wherry.example/wherry/release"
)

// deltaFigures tell what it takes to get from one OS file to another, in percent of the
// whole new file.
type deltaFigures struct {
	WherryPercent float64 `json:"wherry_percent"`
	BsdiffPercent float64 `json:"bsdiff_percent"`
	ZstdPercent   float64 `json:"zstd_percent"`

	Bytes      int     `json:"wherry_bytes"`
	FullBytes  int     `json:"full_bytes"`
	ApplyMB    float64 `json:"apply_mb"`          // memory, at most
	ApplyCPU   float64 `json:"apply_cpu_seconds"` // on the computer that measures
	Difference string  `json:"difference"`        // what changed
}

// The minor version: a fixed piece of this repository's history, so that figures of
// different days compare.
const (
	minorFrom = "b90d92d0cb37cfd7360f1faf3f3773d03e5f8a5a"
	minorTo   = "f8762f7"
)

// deltaPatience bounds all builds and comparisons together.
const deltaPatience = 90 * time.Minute

// deltaBench builds OS files in a folder of its own.
type deltaBench struct {
	dir     string
	program differ.Program // applies deltas: the one of this checkout
	kernel  release.Kernel // that this checkout is built with
}

// measureDeltas measures each difference. One that can't be built here is left out, and said.
func measureDeltas() (map[string]deltaFigures, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deltaPatience)
	defer cancel()
	dir, err := os.MkdirTemp("", "wherry-bench-deltas-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &deltaBench{dir: dir}
	base, err := b.prepare(ctx)
	if err != nil {
		return nil, err
	}
	figures := map[string]deltaFigures{}
	for _, c := range []struct {
		name  string
		files func(context.Context, []byte) (old, data []byte, difference string, err error)
	}{{"one_line", b.oneLine}, {"minor", b.minor}, {"kernel", b.kernelPatch}} {
		old, data, difference, err := c.files(ctx, base)
		if errors.Is(err, errNotHere) {
			fmt.Fprintf(os.Stderr, "deltas: %s is left out: %v\n", c.name, err)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("deltas: %s: %w", c.name, err)
		}
		f, err := b.compare(ctx, old, data)
		if err != nil {
			return nil, fmt.Errorf("deltas: %s: %w", c.name, err)
		}
		f.Difference = difference
		figures[c.name] = f
	}
	return figures, nil
}

// errNotHere says that this computer lacks what a case needs.
var errNotHere = errors.New("not here")

// prepare builds the checkout as it was committed last, and takes its program.
func (b *deltaBench) prepare(ctx context.Context) ([]byte, error) {
	if err := b.checkout(ctx, "HEAD", "base"); err != nil {
		return nil, err
	}
	base, err := b.build(ctx, "base", image.Options{})
	if err != nil {
		return nil, err
	}
	m, err := image.ReadManifest(filepath.Join(b.dir, "image-base"))
	if err != nil {
		return nil, err
	}
	b.kernel = m.Kernel
	file, err := differ.Open(base)
	if err != nil {
		return nil, err
	}
	b.program, err = differ.ProgramOf(file, b.dir)
	return base, err
}

// checkout puts a commit's files into a folder.
func (b *deltaBench) checkout(ctx context.Context, commit, name string) error {
	archive, err := exec.CommandContext(ctx, "git", "archive", "--format=tar", commit).Output()
	if err != nil {
		return fmt.Errorf("%w: there is no commit %s in this checkout", errNotHere, commit)
	}
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "tar", "-x", "-C", dir)
	cmd.Stdin = bytes.NewReader(archive)
	return cmd.Run()
}

// build builds the OS file of a folder's sources.
func (b *deltaBench) build(ctx context.Context, name string, o image.Options) ([]byte, error) {
	fmt.Fprintln(os.Stderr, "deltas: building", name)
	o.Source, o.Formats = filepath.Join(b.dir, name), []string{"efi"}
	if o.Output == "" {
		o.Output = filepath.Join(b.dir, "image-"+name)
	}
	if err := os.MkdirAll(o.Output, 0o755); err != nil {
		return nil, err
	}
	if _, err := image.Build(ctx, o); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(o.Output, release.OSFile))
}

// buildItself builds a folder's sources by the program among them: what an image
// is made of has changed since.
func (b *deltaBench) buildItself(ctx context.Context, name, version string) ([]byte, error) {
	fmt.Fprintln(os.Stderr, "deltas: building", name)
	out := filepath.Join(b.dir, "image-"+name)
	argv := []string{"run", "./cmd/wherry", "build", "--format", "efi", "--to", out}
	if version != "" { // not its own
		argv = append(argv, "--release-version", version)
	}
	cmd := exec.CommandContext(ctx, "go", argv...)
	cmd.Dir = filepath.Join(b.dir, name)
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w: %s", name, err, text)
	}
	return os.ReadFile(filepath.Join(out, release.OSFile))
}

// The line that is added to wherryd, and behind which one.
const (
	lineFile  = "internal/machine/engine/engine.go"
	lineAfter = `e.log.Warn("engine: background work did not end in time")`
	lineAdded = "\n\t\t" + `e.log.Warn("engine: this line is one that was not there", "containers", 1)`
)

func (b *deltaBench) oneLine(ctx context.Context, base []byte) ([]byte, []byte, string, error) {
	if err := b.checkout(ctx, "HEAD", "line"); err != nil {
		return nil, nil, "", err
	}
	file := filepath.Join(b.dir, "line", lineFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, "", err
	}
	changed := strings.Replace(string(text), lineAfter, lineAfter+lineAdded, 1)
	if changed == string(text) {
		return nil, nil, "", fmt.Errorf("%s has no line %s any more: name another one", lineFile, lineAfter)
	}
	if err := os.WriteFile(file, []byte(changed), 0o644); err != nil {
		return nil, nil, "", err
	}
	data, err := b.build(ctx, "line", image.Options{})
	return base, data, "one log call more in wherryd", err
}

func (b *deltaBench) minor(ctx context.Context, _ []byte) ([]byte, []byte, string, error) {
	var files [2][]byte
	for i, c := range []struct{ commit, name, version string }{{minorFrom, "minor-from", ""}, {minorTo, "minor-to", "1.1.0"}} {
		if err := b.checkout(ctx, c.commit, c.name); err != nil {
			return nil, nil, "", err
		}
		var err error
		if files[i], err = b.buildItself(ctx, c.name, c.version); err != nil {
			return nil, nil, "", err
		}
	}
	return files[0], files[1], fmt.Sprintf("commits %.7s to %s, and the version", minorFrom, minorTo), nil
}

var kernelPackage = regexp.MustCompile(`^linux-image-([0-9]+\.[0-9]+)\.([0-9]+)(\+deb[0-9]+-cloud-amd64)$`)

// kernelPatch builds this checkout with the kernel before the one that it has.
func (b *deltaBench) kernelPatch(ctx context.Context, base []byte) ([]byte, []byte, string, error) {
	name, err := previousKernel(ctx, b.kernel.Package)
	if err != nil {
		return nil, nil, "", err
	}
	dir := filepath.Join(b.dir, "kernel")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, "", err
	}
	get := exec.CommandContext(ctx, "apt-get", "-q", "download", name)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return nil, nil, "", fmt.Errorf("%w: fetch %s: %s", errNotHere, name, out)
	}
	packages, _ := filepath.Glob(filepath.Join(dir, "*.deb")) // the pattern is right
	if len(packages) != 1 {
		return nil, nil, "", fmt.Errorf("apt-get brought %v", packages)
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", packages[0], dir).CombinedOutput(); err != nil {
		return nil, nil, "", fmt.Errorf("unpack %s: %w: %s", name, err, out)
	}
	version := strings.TrimPrefix(name, "linux-image-")
	old, err := b.build(ctx, "base", image.Options{
		Output: filepath.Join(b.dir, "image-kernel"),
		Kernel: filepath.Join(dir, "boot", "vmlinuz-"+version), Modules: filepath.Join(dir, "lib", "modules", version),
	})
	return old, base, fmt.Sprintf("kernel %s to %s", version, b.kernel.Release), err
}

// previousKernel asks apt for the patch release before a kernel's.
func previousKernel(ctx context.Context, current string) (string, error) {
	is := kernelPackage.FindStringSubmatch(current)
	if is == nil {
		return "", fmt.Errorf("%w: the kernel's package is %q", errNotHere, current)
	}
	names, err := exec.CommandContext(ctx, "apt-cache", "pkgnames", "linux-image-"+is[1]+".").Output()
	if err != nil {
		return "", fmt.Errorf("%w: ask apt: %w", errNotHere, err)
	}
	best, _ := strconv.Atoi(is[2])
	limit, found := best, -1
	for name := range strings.FieldsSeq(string(names)) {
		if m := kernelPackage.FindStringSubmatch(name); m != nil && m[1] == is[1] && m[3] == is[3] {
			if n, _ := strconv.Atoi(m[2]); n < limit && n > found {
				found = n
			}
		}
	}
	if found < 0 {
		return "", fmt.Errorf("%w: apt offers no kernel before %s", errNotHere, current)
	}
	return fmt.Sprintf("linux-image-%s.%d%s", is[1], found, is[3]), nil
}

// compare makes the three deltas between two files.
func (b *deltaBench) compare(ctx context.Context, old, data []byte) (deltaFigures, error) {
	from, err := differ.Open(old)
	if err != nil {
		return deltaFigures{}, err
	}
	made, v, err := publish.DeltaWith(ctx, b.program, from, old, data, func(string) {})
	if err != nil {
		return deltaFigures{}, err
	}
	percent := func(n int) float64 { return float64(n) / float64(len(data)) * 100 }
	f := deltaFigures{WherryPercent: percent(len(made)), Bytes: len(made), FullBytes: len(data), ApplyMB: float64(v.Memory) / 1e6, ApplyCPU: v.CPU}
	oldFile, newFile, out := filepath.Join(b.dir, "old"), filepath.Join(b.dir, "new"), filepath.Join(b.dir, "patch")
	if err := errors.Join(os.WriteFile(oldFile, old, 0o644), os.WriteFile(newFile, data, 0o644)); err != nil {
		return f, err
	}
	for _, peer := range []struct {
		to   *float64
		argv []string
	}{
		{&f.BsdiffPercent, []string{"bsdiff", oldFile, newFile, out}},
		{&f.ZstdPercent, []string{"zstd", "-q", "-f", "-19", "--long=27", "--patch-from=" + oldFile, newFile, "-o", out}},
	} {
		if text, err := exec.CommandContext(ctx, peer.argv[0], peer.argv[1:]...).CombinedOutput(); err != nil {
			return f, fmt.Errorf("%s: %w: %s", peer.argv[0], err, text)
		}
		info, err := os.Stat(out)
		if err != nil {
			return f, err
		}
		*peer.to = percent(int(info.Size()))
	}
	return f, nil
}

// deltaTable is the figures for people.
func deltaTable(figures map[string]deltaFigures) string {
	if len(figures) == 0 {
		return ""
	}
	var t strings.Builder
	t.WriteString("\n## Deltas\n\nPercent of the whole OS file. Each was applied, and gave the file.\n\n")
	t.WriteString("| | Wherry | bsdiff | zstd --patch-from | KB | memory to apply, MB | CPU to apply, s |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, name := range []string{"one_line", "minor", "kernel"} {
		f, ok := figures[name]
		if !ok {
			continue
		}
		fmt.Fprintf(&t, "| %s: %s | %.2f | %.1f | %.1f | %.0f | %.0f | %.0f |\n", strings.ReplaceAll(name, "_", " "), f.Difference,
			f.WherryPercent, f.BsdiffPercent, f.ZstdPercent, float64(f.Bytes)/1e3, f.ApplyMB, f.ApplyCPU)
	}
	return t.String()
}
