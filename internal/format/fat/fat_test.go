// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package fat

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var options = Options{
	Bytes: 512 << 20, Start: 1 << 20, Label: "WHERRY", ID: 0x12345678,
	Time: time.Date(2026, 11, 20, 10, 20, 30, 0, time.UTC),
}

// sample has names of every kind, directories of more than a cluster, files of
// no, one and many clusters.
func sample() []File {
	files := []File{
		{"EFI/BOOT/BOOTX64.EFI", []byte("boot")},
		{"EFI/systemd/systemd-bootx64.efi", []byte("the same loader")},
		{"EFI/Linux/wherry_1.0.0+3.efi", bytes.Repeat([]byte("0123456789abcdef"), 700_001)},
		{"EFI/Linux/wherry_1.0.1.efi", bytes.Repeat([]byte("x"), 4096)},
		{"EFI/Linux/exactly-26-characters.efi", []byte("26 units need no end mark")},
		{"loader/loader.conf", []byte("timeout 0\n")},
		{"loader/empty", nil},
		{"A.B", []byte("short")},
		{"a.b.c", []byte("two dots")},
		{".hidden", []byte("leading dot")},
		{"deep/er/and/deeper/file", []byte("deep")},
		{strings.Repeat("long", 63) + ".md", []byte("255")},
	}
	for i := range 200 {
		files = append(files, File{fmt.Sprintf("many/a rather long file name %03d.text", i), []byte{byte(i)}})
	}
	return files
}

func format(t *testing.T, o Options, files []File) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(o.Bytes); err != nil {
		t.Fatal(err)
	}
	if err := Format(f, o, files); err != nil {
		t.Fatal(err)
	}
	return path
}

func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is needed as a judge: run tools/setup.sh test", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// fsck.fat finds nothing to say, and mtools reads every file back.
func TestJudges(t *testing.T) {
	for size, cluster := range map[int64]int{260 << 20: 0, 512 << 20: 4096, 5 << 30: 0, 48 << 20: 512, 136 << 20: 2048} {
		o := options
		o.Bytes, o.ClusterBytes = size, cluster
		path := format(t, o, sample())
		// More than this line and the count of files would be a complaint.
		out := judge(t, "fsck.fat", "-n", "-v", path)
		for _, bad := range []string{"differ", "rong", "should", "nvalid", "orphan", "Reclaimed", "mismatch", "dirty", "Bad", "Cluster "} {
			if strings.Contains(out, bad) {
				t.Fatalf("%d bytes: fsck.fat says %q:\n%s", size, bad, out)
			}
		}
		if !strings.Contains(out, fmt.Sprintf("%d bytes per cluster", cmp.Or(cluster, 4096))) || !strings.Contains(out, "files, ") {
			t.Errorf("%d bytes: fsck.fat:\n%s", size, out)
		}
		to := t.TempDir()
		judge(t, "mcopy", "-s", "-i", path, "::/", to)
		for _, f := range sample() {
			if got, err := os.ReadFile(filepath.Join(to, f.Path)); err != nil || !bytes.Equal(got, f.Data) {
				t.Errorf("%d bytes: %s came out as %d bytes, %v", size, f.Path, len(got), err)
			}
		}
		checkOffsets(t, path, o)
	}
}

// checkOffsets reads every file from where it is said to lie.
func checkOffsets(t *testing.T, path string, o Options) {
	t.Helper()
	volume, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer volume.Close()
	offsets, err := Offsets(o, sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range sample() {
		at, ok := offsets[f.Path]
		got := make([]byte, len(f.Data))
		if _, err := volume.ReadAt(got, at); err != nil || !bytes.Equal(got, f.Data) || at%4096 != 0 || ok != (len(f.Data) > 0) {
			t.Errorf("%d bytes: %s is not at %d (%v, %v)", o.Bytes, f.Path, at, ok, err)
		}
	}
}

func TestListing(t *testing.T) {
	path := format(t, options, sample())
	for dir, wants := range map[string][]string{
		"::/EFI/Linux": {"WHERRY~1 EFI  11200016 2026-11-20  10:20  wherry_1.0.0+3.efi", "WHERRY~2 EFI      4096 2026-11-20  10:20  wherry_1.0.1.efi"},
		"::/EFI/BOOT":  {"BOOTX64  EFI         4 2026-11-20  10:20 \n"},
		"::/":          {"Volume in drive : is WHERRY", "Volume Serial Number is 1234-5678", "A        B           5", "AB~1     C           8 2026-11-20  10:20  a.b.c"},
	} {
		out := judge(t, "mdir", "-i", path, dir)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("mdir %s does not show %q:\n%s", dir, want, out)
			}
		}
	}
}

// recorder notes what was written.
type recorder struct{ bytes.Buffer }

func (r *recorder) WriteAt(p []byte, at int64) (int, error) {
	fmt.Fprintf(&r.Buffer, "%d:", at)
	return r.Write(p)
}

func TestSameInputSameBytes(t *testing.T) {
	var a, b recorder
	files := sample()
	if err := Format(&a, options, files); err != nil {
		t.Fatal(err)
	}
	for i, j := 0, len(files)-1; i < j; i, j = i+1, j-1 {
		files[i], files[j] = files[j], files[i]
	}
	if err := Format(&b, options, files); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of the files changes the volume")
	}
	if a.Len() > 13<<20 {
		t.Errorf("%d bytes were written: zeros among them", a.Len())
	}
}

func TestRefuses(t *testing.T) {
	one := func(path string) []File { return []File{{path, []byte("x")}} }
	for name, c := range map[string]struct {
		change func(*Options)
		files  []File
	}{
		"small":            {func(o *Options) { o.Bytes = 255 << 20 }, nil},
		"large":            {func(o *Options) { o.Bytes = 1 << 40 }, nil},
		"small clusters":   {func(o *Options) { o.Bytes, o.ClusterBytes = 32<<20, 512 }, nil},
		"cluster":          {func(o *Options) { o.ClusterBytes = 8192 }, nil},
		"odd":              {func(o *Options) { o.Bytes++ }, nil},
		"start":            {func(o *Options) { o.Start = 1 }, nil},
		"label":            {func(o *Options) { o.Label = "wherry" }, nil},
		"long label":       {func(o *Options) { o.Label = "WHERRY WHERRY" }, nil},
		"time":             {func(o *Options) { o.Time = time.Unix(0, 0) }, nil},
		"no name":          {nil, one("")},
		"empty part":       {nil, one("a//b")},
		"absolute":         {nil, one("/a")},
		"dots":             {nil, one("../a")},
		"character":        {nil, one("a:b")},
		"not ASCII":        {nil, one("ä")},
		"too long":         {nil, one(strings.Repeat("x", 256))},
		"twice":            {nil, append(one("a"), one("A")...)},
		"file is a folder": {nil, append(one("a"), one("a/b")...)},
		"folder is a file": {nil, append(one("a/b"), one("a")...)},
		"full":             {func(o *Options) { o.Bytes = 260 << 20 }, []File{{"a", make([]byte, 260<<20)}}},
	} {
		o := options
		if c.change != nil {
			c.change(&o)
		}
		if err := Format(&recorder{}, o, c.files); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
