// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package wherry holds the house rules as tests: what may import what, that
// every package explains itself, licences, sizes. See ARCHITECTURE.md.
package wherry

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "wherry.example/wherry"

// listed is what `go list -json` says of a package, as far as the rules need it.
type listed struct {
	ImportPath   string
	Dir          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
	Name         string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,TestImports,XTestImports,GoFiles,Name", "./...")
	cmd.Env = append(os.Environ(), "GOOS=linux")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(out); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

// within says whether path is the package dir or below it.
func within(path, dir string) bool {
	rel, ok := strings.CutPrefix(path, module+"/")
	return ok && (rel == dir || strings.HasPrefix(rel, dir+"/"))
}

func withinAny(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return within(path, d) })
}

// edge is a rule about imports: where from matches, to must not be imported.
type edge struct {
	name string
	from func(string) bool
	bad  func(from, to string) bool
}

var contracts = []string{"config", "release", "api", "client"}

// subsystem returns the first folder below internal/machine of a package.
func subsystem(path string) string {
	rel, ok := strings.CutPrefix(path, module+"/internal/machine/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rel, "/")
	return first
}

var edges = []edge{
	{"host runs anywhere: it imports neither linux nor machine",
		func(f string) bool { return within(f, "internal/host") },
		func(_, to string) bool { return withinAny(to, "internal/linux", "internal/machine") }},
	{"machine does not import host",
		func(f string) bool { return within(f, "internal/machine") },
		func(_, to string) bool { return withinAny(to, "internal/host", "cmd") }},
	{"siblings under machine do not import each other, except supervise and status; server may",
		func(f string) bool { s := subsystem(f); return s != "" && s != "server" },
		func(f, to string) bool {
			s := subsystem(to)
			return s != "" && s != subsystem(f) && s != "supervise" && s != "status"
		}},
	{"linux and format know nothing of host, machine and the contracts",
		func(f string) bool { return withinAny(f, "internal/linux", "internal/format") },
		func(f, to string) bool {
			return withinAny(to, append([]string{"internal/host", "internal/machine", "cmd"}, contracts...)...)
		}},
	{"contracts do not import the inside",
		func(f string) bool { return withinAny(f, contracts...) },
		func(_, to string) bool {
			return withinAny(to, "internal/host", "internal/machine", "internal/linux", "cmd")
		}},
	{"only the engine knows containerd",
		func(f string) bool { return !within(f, "internal/machine/engine") },
		func(_, to string) bool { return strings.HasPrefix(to, "github.com/containerd/containerd/v2/") }},
	{"only the engine and the shim know the task protocol",
		func(f string) bool { return !withinAny(f, "internal/machine/engine", "internal/machine/shim") },
		func(_, to string) bool { return strings.HasPrefix(to, "github.com/containerd/containerd/api/") }},
	{"only the shim knows libcontainer",
		func(f string) bool { return !withinAny(f, "internal/machine/shim") },
		func(_, to string) bool { return strings.HasPrefix(to, "github.com/opencontainers/runc/") }},
	{"wherry-init depends on pid1, supervise and linux only",
		func(f string) bool { return within(f, "cmd/wherry-init") },
		func(_, to string) bool {
			return strings.HasPrefix(to, module) && !withinAny(to, "internal/machine/pid1", "internal/machine/supervise", "internal/linux", "internal/format/modindex", "internal/format/bootcount")
		}},
	{"wherry-early has no runtime, and so no packages",
		func(f string) bool { return within(f, "cmd/wherry-early") },
		func(_, to string) bool { return to != "unsafe" }},
	{"pid1 and supervise stay small: no API, no config, no network",
		func(f string) bool { return withinAny(f, "internal/machine/pid1", "internal/machine/supervise") },
		func(_, to string) bool {
			return withinAny(to, contracts...) || to == "net/http" || strings.HasPrefix(to, "google.golang.org/protobuf")
		}},
}

// TestImports walks every import edge of the module.
func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, e := range edges {
			if !e.from(p.ImportPath) {
				continue
			}
			for _, to := range p.Imports {
				if e.bad(p.ImportPath, to) {
					t.Errorf("%s imports %s: %s", p.ImportPath, to, e.name)
				}
			}
		}
	}
}

// TestPackageDocs wants a package comment with substance in every package.
func TestPackageDocs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 || within(p.ImportPath, "api") {
			continue
		}
		if doc := packageDoc(t, p); len(strings.Fields(doc)) < 8 {
			t.Errorf("%s: the package comment says too little: %q", p.ImportPath, doc)
		}
	}
}

func packageDoc(t *testing.T, p listed) string {
	t.Helper()
	var doc string
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		doc += f.Doc.Text()
	}
	return doc
}

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// goFiles calls f with every Go file of the repository that people wrote.
func goFiles(t *testing.T, f func(path string, src []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || path == "build") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		src, err := os.ReadFile(path)
		if err == nil && !generated.Match(src) {
			f(path, src)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLicence wants the two licence lines on top of every Go file.
func TestLicence(t *testing.T) {
	const want = "// Copyright The Wherry Authors\n// SPDX-License-Identifier: Apache-2.0\n"
	goFiles(t, func(path string, src []byte) {
		if !strings.HasPrefix(string(src), want) {
			t.Errorf("%s does not begin with the licence lines", path)
		}
	})
}

// maxFunctionLines and maxFileLines are where a reader loses the thread.
const (
	maxFunctionLines = 80
	maxFileLines     = 700
)

// TestSizes bounds functions and files, tests included.
func TestSizes(t *testing.T) {
	goFiles(t, func(path string, src []byte) {
		if n := strings.Count(string(src), "\n"); n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d: is it one thing?", path, n, maxFileLines)
		}
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", path, fn.Name.Name, n, maxFunctionLines)
			}
		}
	})
}

// TestOnlyMainExits keeps os.Exit and log.Fatal where a caller expects them.
func TestOnlyMainExits(t *testing.T) {
	exits := regexp.MustCompile(`\b(os\.Exit|log\.Fatal\w*|syscall\.Exit|unix\.Exit)\(`)
	goFiles(t, func(path string, src []byte) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "cmd/") || strings.HasPrefix(path, "examples/") ||
			strings.HasPrefix(path, "tools/") || mainPackage(src) {
			return
		}
		if m := exits.Find(src); m != nil {
			t.Errorf("%s calls %s): only main exits", path, m)
		}
	})
}

func mainPackage(src []byte) bool {
	return regexp.MustCompile(`(?m)^package main$`).Match(src)
}

// TestNames refuses packages that are named for nothing.
func TestNames(t *testing.T) {
	for _, p := range packages(t) {
		for _, part := range strings.Split(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "manager", "misc"}, part) {
				t.Errorf("%s: %q says nothing about what the package does", p.ImportPath, part)
			}
		}
	}
}

// TestGoMod refuses replace lines: go.sum is the supply chain.
func TestGoMod(t *testing.T) {
	mods, err := filepath.Glob("components/*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(mods, "go.mod", "tools/go.mod") {
		src, err := os.ReadFile(m)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^replace\b`).Match(src) {
			t.Errorf("%s has a replace line", m)
		}
	}
}
