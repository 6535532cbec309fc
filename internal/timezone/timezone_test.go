// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package timezone

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write zones.txt")

// database is Go's own, by name.
func database(t *testing.T) map[string][]byte {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(filepath.Join(strings.TrimSpace(string(root)), "lib", "time", "zoneinfo.zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	all := map[string][]byte{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(data, []byte("TZif")) {
			all[f.Name] = data
		}
	}
	if len(all) < 300 {
		t.Fatalf("only %d zones", len(all))
	}
	return all
}

// TestTable holds zones.txt against the database.
func TestTable(t *testing.T) {
	zones := map[string][]string{}
	for name, data := range database(t) {
		data = bytes.TrimSuffix(data, []byte("\n"))
		rule := string(data[bytes.LastIndexByte(data, '\n')+1:])
		zones[rule] = append(zones[rule], name)
	}
	var want strings.Builder
	for _, rule := range slices.Sorted(maps.Keys(zones)) {
		slices.Sort(zones[rule])
		fmt.Fprintf(&want, "%s %s\n", rule, strings.Join(zones[rule], " "))
	}
	if *update {
		if err := os.WriteFile("zones.txt", []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	// Countries change their rules, and the next Go knows: the table is then
	// made anew. Until then the one here must at least have all zones.
	if diff := cmp.Diff(want.String(), table); diff != "" {
		t.Errorf("run go generate (-Go's database, +zones.txt):\n%s", diff)
	}
}

// Every hour of three years is the same time in our zones and in Go's.
func TestAgrees(t *testing.T) {
	from := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)
	for name, data := range database(t) {
		if slices.Contains([]string{"Africa/Casablanca", "Africa/El_Aaiun", "Asia/Gaza", "Asia/Hebron"}, name) { // around Ramadan
			continue
		}
		want, err := time.LoadLocationFromTZData(name, data)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := from; at.Before(from.AddDate(3, 0, 0)); at = at.Add(time.Hour) {
			_, g := at.In(got).Zone()
			_, w := at.In(want).Zone()
			if g != w {
				t.Errorf("%s: %d seconds from UTC at %s, want %d", name, g, at, w)
				break
			}
		}
	}
}

func TestUnknown(t *testing.T) {
	for _, name := range []string{"Europe/Nowhere", "CET-1CEST,M3.5.0,M10.5.0/3", "../etc/passwd"} {
		if _, err := Load(name); err == nil {
			t.Errorf("%s is a zone", name)
		}
	}
	if l, err := Load(""); err != nil || l != time.UTC {
		t.Errorf("no name: %v, %v", l, err)
	}
}
