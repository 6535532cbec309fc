// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/pclntab"
)

// checkout writes a source tree with one component that needs no other module
// and one program of our own.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                           "module wherry.example/wherry\n\ngo 1.26\n",
		"internal/version/version.go":      "package version\n\nvar Version = \"none\"\n",
		"cmd/own/main.go":                  "package main\n\nimport \"wherry.example/wherry/internal/version\"\n\nfunc main() { println(version.Version) }\n",
		"components/sample/component.yaml": "name: sample\npackage: sample.example/sample\nbinary: sampled\ntags: [loud]\n",
		"components/sample/go.mod":         "module sample.example/sample\n\ngo 1.26\n",
		"components/sample/go.sum":         "",
		"components/sample/main.go":        "package main\n\nfunc main() { println(word) }\n",
		"components/sample/quiet.go":       "//go:build !loud\n\npackage main\n\nconst word = \"quiet\"\n",
		"components/sample/loud.go":        "//go:build loud\n\npackage main\n\nconst word = \"LOUD\"\n",
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func builder(t *testing.T) (b *Builder, builds *int) {
	t.Helper()
	builds = new(int)
	return &Builder{Source: checkout(t), Cache: t.TempDir(), Arch: "amd64", Progress: func(string) { *builds++ }}, builds
}

func (b *Builder) rewrite(t *testing.T, name, old, new string) {
	t.Helper()
	p := filepath.Join(b.Source, name)
	text, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), old, new, 1)
	if changed == string(text) && old != "" {
		t.Fatalf("%s does not contain %q", name, old)
	}
	if err := os.WriteFile(p, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestComponentIsCachedByContent(t *testing.T) {
	b, builds := builder(t)
	first, err := b.Component(t.Context(), "sample")
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Component(t.Context(), "sample")
	if err != nil {
		t.Fatal(err)
	}
	if *builds != 1 || first.Path != again.Path || first.Name != "sampled" {
		t.Errorf("%d builds, %+v and %+v", *builds, first, again)
	}
	for file, change := range map[string][2]string{
		"components/sample/component.yaml": {"[loud]", "[]"},
		"components/sample/go.mod":         {"go 1.26", "go 1.26.0"},
		"components/sample/go.sum":         {"", "\n"},
	} {
		b.rewrite(t, file, change[0], change[1])
		other, err := b.Component(t.Context(), "sample")
		if err != nil {
			t.Fatal(err)
		}
		if other.Path == first.Path {
			t.Errorf("a change of %s did not lead to a new binary", file)
		}
		first = other
	}
}

func TestTagsAndStamps(t *testing.T) {
	b, _ := builder(t)
	bin, err := b.Component(t.Context(), "sample")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(bin.Path).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "LOUD" {
		t.Errorf("the component says %q, %v", out, err)
	}
	own, err := b.Program(t.Context(), "own", "7.8.9", filepath.Join(t.TempDir(), "own"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(own.Path).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "7.8.9" {
		t.Errorf("the program says %q, %v", out, err)
	}
	for _, program := range []Binary{bin, own} {
		data, err := os.ReadFile(program.Path)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := pclntab.DropLines(data, isOurs); n != 0 || err != nil {
			t.Errorf("%s has %d bytes of lines of others, %v", program.Name, n, err)
		}
		if n, err := pclntab.DropLines(data, func(string) bool { return false }); n == 0 || err != nil {
			t.Errorf("%s has no lines of its own, %v", program.Name, err)
		}
	}
}

// TestCallersEnvironment: what the caller has set for its own builds does not
// change what gets into an image.
func TestCallersEnvironment(t *testing.T) {
	b, _ := builder(t)
	t.Setenv("GOFLAGS", "-tags=other -race")
	t.Setenv("GOOS", "plan9")
	t.Setenv("CGO_ENABLED", "1")
	bin, err := b.Component(t.Context(), "sample")
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(bin.Path)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range info.Settings {
		got[s.Key] = s.Value
	}
	if got["GOOS"] != "linux" || got["GOARCH"] != "amd64" || got["CGO_ENABLED"] != "0" || got["-tags"] != "loud" || got["-trimpath"] != "true" || got["vcs"] != "" {
		t.Errorf("built with %v", got)
	}
}

func TestSameBytesInTwoFolders(t *testing.T) {
	var got [2]string
	for i := range got {
		b, _ := builder(t)
		bin, err := b.Program(t.Context(), "own", "1.0.0", filepath.Join(t.TempDir(), "own"))
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(bin.Path)
		if err != nil {
			t.Fatal(err)
		}
		got[i] = string(data)
	}
	if got[0] != got[1] {
		t.Error("the same source in two folders gave two binaries")
	}
}

func TestBuildErrorSaysWhy(t *testing.T) {
	b, _ := builder(t)
	b.rewrite(t, "components/sample/main.go", "word", "wrod")
	_, err := b.Component(t.Context(), "sample")
	if err == nil || !strings.Contains(err.Error(), "component sample") || !strings.Contains(err.Error(), "undefined: wrod") {
		t.Errorf("the error is %v", err)
	}
	left, _ := filepath.Glob(filepath.Join(b.Cache, "component", "*"))
	hidden, _ := filepath.Glob(filepath.Join(b.Cache, "component", ".*"))
	if len(left)+len(hidden) > 0 {
		t.Errorf("left are %v %v", left, hidden)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, change := range map[string][3]string{
		"unknown field": {"component.yaml", "tags", "tag"},
		"other name":    {"component.yaml", "name: sample", "name: other"},
		"no package":    {"component.yaml", "package: sample.example/sample\n", ""},
		"binary a path": {"component.yaml", "sampled", "../sampled"},
		"wrong type":    {"component.yaml", "[loud]", "{}"},
	} {
		b, _ := builder(t)
		b.rewrite(t, "components/sample/"+change[0], change[1], change[2])
		if _, err := b.Component(t.Context(), "sample"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	b, _ := builder(t)
	if err := os.Remove(filepath.Join(b.Source, "components/sample/go.sum")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Component(t.Context(), "sample"); err == nil {
		t.Error("a component without go.sum was taken")
	}
}
