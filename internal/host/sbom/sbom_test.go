// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package sbom

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/host/deb"
)

// TestEncode lists a program that this module's tools can build, and holds the
// list against what the binary itself says.
func TestEncode(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "protoc-gen-go")
	if out, err := exec.Command("go", "build", "-o", bin, "google.golang.org/protobuf/cmd/protoc-gen-go").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	in := Input{
		Version: "1.2.3", Edition: "core", Arch: "amd64",
		Binaries: []Binary{{Name: "gen", Path: bin}, {Name: "again", Path: bin}},
		Packages: []deb.Candidate{{Package: "linux-image-6.12-cloud-amd64", Version: "6.12+1", Architecture: "amd64"}},
	}
	first, err := Encode(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Encode(t.Context(), in)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("two lists of the same differ, or %v", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(first), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	known := checkComponents(t, bom)
	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if info.Main.Path != "google.golang.org/protobuf" {
		t.Fatalf("the test's program is of module %q", info.Main.Path)
	}
	for _, m := range append(info.Deps, &info.Main) {
		if !known["pkg:golang/"+m.Path+"@"+m.Version] {
			t.Errorf("%s is linked in but not listed", m.Path)
		}
	}
	for _, ref := range []string{"wherry", "program:gen", "program:again", "pkg:deb/debian/linux-image-6.12-cloud-amd64@6.12%2B1?arch=amd64"} {
		if !known[ref] {
			t.Errorf("%s is not listed", ref)
		}
	}
}

// checkComponents wants unique references, no dangling dependency, and a
// licence or the word that there is none.
func checkComponents(t *testing.T, bom cdx.BOM) map[string]bool {
	t.Helper()
	known := map[string]bool{bom.Metadata.Component.BOMRef: true}
	for _, c := range *bom.Components {
		if known[c.BOMRef] {
			t.Errorf("%s is listed twice", c.BOMRef)
		}
		known[c.BOMRef] = true
		if c.Type != cdx.ComponentTypeApplication && c.Licenses == nil && c.Properties == nil {
			t.Errorf("%s has no word on its licence", c.BOMRef)
		}
	}
	for _, d := range *bom.Dependencies {
		for _, ref := range append(*d.Dependencies, d.Ref) {
			if !known[ref] {
				t.Errorf("%s is depended on but not listed", ref)
			}
		}
	}
	return known
}

func TestEncodeRefusesWhatIsNoGoProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Encode(t.Context(), Input{Binaries: []Binary{{Name: "x", Path: file}}}); err == nil {
		t.Error("a script was listed as a Go program")
	}
}

// TestClassifyRealFiles reads the licences of modules that this test's own
// module uses, so they are in the module cache.
func TestClassifyRealFiles(t *testing.T) {
	l, err := newLicences(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for module, want := range map[string]string{
		"github.com/CycloneDX/cyclonedx-go": "Apache-2.0",
		"github.com/google/go-cmp":          "BSD-3-Clause",
		"go.yaml.in/yaml/v3":                "Apache-2.0 MIT",
		"github.com/klauspost/compress":     "Apache-2.0 BSD-3-Clause MIT",
		"golang.org/x/sync":                 "BSD-3-Clause",
	} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
		if err != nil {
			t.Fatal(err)
		}
		ids, err := l.module(t.Context(), module, strings.TrimSpace(string(out)))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%s: %q, want %q", module, got, want)
		}
	}
}

func TestClassify(t *testing.T) {
	bsd := "Redistribution and use in source and\n binary forms, with or without modification, are permitted"
	for text, want := range map[string][]string{
		"":                     nil,
		"All rights reserved.": nil,
		"This is MIT licensed": nil, // a claim, not the text
		bsd:                    {"BSD-2-Clause"},
		bsd + " ... Neither the name may be used to endorse or promote products derived from": {"BSD-3-Clause"},
		"Mozilla Public License\nVersion 2.0":                                                 {"MPL-2.0"},
		"This is free and unencumbered software released into the public domain.":             {"Unlicense"},
		"Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is granted, provided that the above copyright notice and this permission notice appear": {"ISC"},
	} {
		if diff := cmp.Diff(want, classify(text)); diff != "" {
			t.Errorf("%.40q: %s", text, diff)
		}
	}
}

func TestEscape(t *testing.T) {
	if got := escape("github.com/BurntSushi/toml"); got != "github.com/!burnt!sushi/toml" {
		t.Error(got)
	}
}
