// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/release"
)

// publisher is a folder with keys and a repository, used by the command line.
type publisher struct {
	t                    *testing.T
	dir, repo, root, url string
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	dir := t.TempDir()
	p := &publisher{t: t, dir: dir, repo: filepath.Join(dir, "repo"), root: filepath.Join(dir, "root.pem")}
	t.Setenv("WHERRY_REPOSITORY", p.repo)
	t.Setenv("WHERRY_RELEASE_KEYS", filepath.Join(dir, "keys"))
	t.Setenv("WHERRY_PASSPHRASE", "correct horse")
	p.run("key new root --passphrase --root-key " + p.root)
	p.run("key new targets snapshot timestamp")
	p.run("init " + p.repo + " --root-key " + p.root)
	s := httptest.NewServer(http.FileServer(http.Dir(p.repo)))
	t.Cleanup(s.Close)
	p.url = s.URL
	return p
}

func (p *publisher) try(args string) (string, error) {
	return call(p.t, append([]string{"release"}, strings.Fields(args)...)...)
}

func (p *publisher) run(args string) string {
	p.t.Helper()
	out, err := p.try(args)
	if err != nil {
		p.t.Fatalf("wherry release %s: %v", args, err)
	}
	return out
}

// says runs a command that must say something.
func (p *publisher) says(args, want string) {
	p.t.Helper()
	if out := p.run(args); !strings.Contains(out, want) {
		p.t.Errorf("wherry release %s says %q, not %q", args, out, want)
	}
}

// refuses runs a command that must fail and say why.
func (p *publisher) refuses(args, want string) {
	p.t.Helper()
	if out, err := p.try(args); err == nil || !strings.Contains(err.Error(), want) {
		p.t.Errorf("wherry release %s: %q, %v: want %q", args, out, err, want)
	}
}

// image is a build folder as `wherry build` leaves it.
func (p *publisher) image(version string) string {
	p.t.Helper()
	dir := filepath.Join(p.dir, "build-"+version)
	content := bytes.Repeat([]byte("kernel of "+version+" "), 1000)
	root, err := os.ReadFile(filepath.Join(p.repo, "metadata", "1.root.json"))
	if err != nil {
		p.t.Fatal(err)
	}
	manifest := fmt.Sprintf(`{"version":%q,"edition":"core","arch":"amd64","kernel":{"release":"6.12"},"trust":{"rootVersion":1,"sha256":"%[4]x"},"parts":[{"name":"kernel","bytes":%[2]d,"sha256":"%[3]x"},{"name":"wherry.efi","bytes":%[2]d,"sha256":"%[3]x"}]}`,
		version, len(content), sha256.Sum256(content), sha256.Sum256(root))
	for name, data := range map[string][]byte{"kernel": content, "wherry.efi": content, "manifest.json": []byte(manifest)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
	return dir
}

func TestReleaseCommands(t *testing.T) {
	p := newPublisher(t)
	p.says("publish "+p.image("12.0.0")+" "+p.image("12.1.0"), "published 12.1.0 core-amd64")
	p.refuses("promote 12.1.0 --to stable", "not in beta yet")
	for _, v := range []string{"12.0.0", "12.1.0"} {
		p.run("promote " + v + " --to beta")
	}
	p.run("promote 12.0.0 --to stable")
	id, later := "machine", release.Version{Days: 12, Minor: 1}
	p.run(fmt.Sprintf("promote 12.1.0 --to stable --percent %d", release.Place(id, later)))

	trusted := " --root " + filepath.Join(p.repo, "metadata", "1.root.json")
	choose := "choose " + p.url + trusted + " --id " + id + " --current "
	p.says(choose+"11.0.0", "It takes 12.0.0.")
	p.says(choose+"12.0.0", "It stays with 12.0.0")
	p.says(fmt.Sprintf("rollout --channel stable --percent %d", release.Place(id, later)+1), "12.1.0 is for")
	p.says(choose+"12.0.0", "It takes 12.1.0.")
	p.says("rollout 12.1.0 --channel stable --percent 100 --start 2h", "12.1.0 is for 100 percent")
	p.says(choose+"12.0.0", "It stays")
	p.run("rollout 12.1.0 --channel stable --percent 100")
	p.run("key rotate timestamp --root-key " + p.root)
	p.says(choose+"12.0.0", "It takes 12.1.0.")

	bundle := filepath.Join(p.dir, "12.1.0.wherry")
	p.says("bundle 12.1.0 -o "+bundle, "12.1.0 for core-amd64")
	p.says("verify "+bundle+trusted, "12.1.0 core-amd64: 2 files") // the manifest and the OS file
	p.says("bundle 12.1.0 --all -o "+bundle, "12.1.0 for core-amd64")
	p.says("verify "+bundle+trusted, "12.1.0 core-amd64: 3 files")
	p.refuses("verify "+bundle, "--root")

	_, err := call(t, "release", "withdraw", "12.1.0", "--reason", "loses the network")
	if err != nil {
		t.Fatal(err)
	}
	p.says(choose+"12.0.0", "loses the network")
	p.says(choose+"11.0.0", "It takes 12.0.0.")
	p.says("ls "+p.url+trusted, "withdrawn: loses the network")
	p.says("verify", "12.0.0 core-amd64: 3 files")
	var list []release.Release
	if err := json.Unmarshal([]byte(p.run("ls -o json")), &list); err != nil || len(list) != 2 || list[0].Withdrawn == nil {
		t.Errorf("%+v %v", list, err)
	}
	p.refuses("rm 12.0.0", "withdraw it first")
	p.run("rm 12.1.0")
	p.says("verify "+p.url+trusted, "12.0.0 core-amd64: 3 files")
}

func TestReleaseRefusals(t *testing.T) {
	p := newPublisher(t)
	p.run("publish " + p.image("12.0.0"))
	p.refuses("promote 12.0 --to beta", "want DAYS.MINOR.PATCH")
	p.refuses("promote 13.0.0 --to beta", "is not published")
	p.refuses("promote 12.0.0 --to gamma", "want alpha, beta or stable")
	p.refuses("promote 12.0.0 --to beta --percent 101", "want 0 to 100")
	p.refuses("promote 12.0.0 --to beta --start tomorrow", "2026-12-01T08:00:00Z")
	p.refuses("rollout --channel stable", "--percent")
	p.refuses("rollout --channel stable --percent 5", "there is no release in channel stable")
	p.refuses("withdraw 12.0.0", "--reason")
	p.refuses("init "+p.repo, "already")
	p.refuses("key new", "--root-key")
	p.refuses("key new admin", "admin")
	p.refuses("key rotate timestamp", "--root-key")
	p.refuses("ls "+filepath.Join(p.dir, "nowhere"), "no such file")
	p.refuses("publish "+filepath.Join(p.dir, "root.pem"), "--version")
	p.refuses("bundle 99.0.0", "is not published")
	t.Setenv("WHERRY_PASSPHRASE", "wrong")
	p.refuses("key rotate timestamp --root-key "+p.root, "root.pem")
	t.Setenv("WHERRY_RELEASE_KEYS", p.dir)
	p.refuses("refresh", "wherry release key new")
}

func TestReleaseVersion(t *testing.T) {
	out, err := call(t, "release", "version")
	if want := fmt.Sprintf("starts with %d.0.0", release.DaysOn(time.Now())); err != nil || !strings.Contains(out, want) {
		t.Errorf("%q %v", out, err)
	}
}

// A version of a day to come is taken, and people are told what that means.
func TestVersionAhead(t *testing.T) {
	today := release.Epoch.AddDate(0, 0, 12)
	for v, want := range map[release.Version]string{
		{Days: 1}: "", {Days: 12, Minor: 9}: "", {Days: 13}: "13.0.0 is of a line that begins on 2026-12-03, which is to come",
	} {
		if got := aheadNote(v, today); !strings.Contains(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q", v, got)
		}
	}
}

// The list tells what a machine downloads, and small deltas are more than nothing.
func TestPrintReleases(t *testing.T) {
	file := func(name string, bytes int64) release.File {
		return release.File{Path: "releases/1.0.0/core-amd64/" + name, Bytes: bytes}
	}
	delta := func(days int, bytes int64) release.Delta {
		return release.Delta{File: file("x", bytes), From: release.Version{Days: days}}
	}
	all := []release.Release{
		{Version: release.Version{Days: 3}, Edition: "core", Arch: "amd64", Files: []release.File{file(release.OSFile, 26_740_000), file("kernel", 13_220_000)},
			Deltas: []release.Delta{delta(1, 1_230_000), delta(2, 812)}},
		{Version: release.Version{Days: 2}, Edition: "core", Arch: "amd64", Files: []release.File{file(release.OSFile, 26_740_000)}, Deltas: []release.Delta{delta(1, 16_800)}},
		{Version: release.Version{Days: 1}, Edition: "core", Arch: "amd64", Files: []release.File{file("kernel", 13_220_000)}},
	}
	var b strings.Builder
	if err := printReleases(&b, all); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"OS FILE +DELTAS +ALL FILES", "26.74 MB +2: 0.81 KB to 1.23 MB +39.96 MB", "26.74 MB +from 1.0.0: 16.80 KB +26.74 MB", "none +none +13.22 MB"} {
		if line := strings.Split(b.String(), "\n")[i]; !regexp.MustCompile(want).MatchString(line) {
			t.Errorf("%q, want %s", line, want)
		}
	}
}

// Of an OS file that trusts nobody the build says so; of bare parts, which nothing updates, it does not.
func TestPrintBuild(t *testing.T) {
	for name, c := range map[string]struct {
		m    release.Manifest
		want string
	}{
		"trusts nobody": {release.Manifest{Boot: &release.Boot{PCR11: strings.Repeat("a", 64)}}, "nobody: it can never be updated, unless it is built with --release-root"},
		"trusts one":    {release.Manifest{Boot: &release.Boot{PCR11: strings.Repeat("a", 64)}, Trust: &release.Trust{RootVersion: 1, Keys: []string{"abc"}}}, "root 1, key abc"},
		"parts":         {release.Manifest{}, ""},
	} {
		var b strings.Builder
		if err := printBuild(&b, image.Result{Manifest: c.m}, false); err != nil || !strings.Contains(b.String(), c.want) || (c.want == "") == strings.Contains(b.String(), "updates from") {
			t.Errorf("%s: %v\n%s", name, err, b.String())
		}
	}
}

func TestParseStart(t *testing.T) {
	now := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{"": now, "2h": now.Add(2 * time.Hour), "2026-12-24T18:00:00+01:00": time.Date(2026, 12, 24, 17, 0, 0, 0, time.UTC)} {
		if got, err := parseStart(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v %v", s, got, err)
		}
	}
	if _, err := parseStart("-2h", now); err == nil {
		t.Error("a start before now")
	}
}

func TestCompleteReleases(t *testing.T) {
	p := newPublisher(t)
	p.run("publish " + p.image("12.0.0"))
	for args, want := range map[string]string{"promote ": "12.0.0", "promote 12.0.0 --to ": "beta", "key rotate ": "timestamp", "key new ": "snapshot"} {
		out, err := call(t, append([]string{"__complete", "release"}, strings.Split(args, " ")...)...)
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q %v", args, out, err)
		}
	}
}
