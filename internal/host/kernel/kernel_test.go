// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"wherry.example/wherry/internal/host/deb"
	"wherry.example/wherry/internal/host/kernel/kerneltest"
)

func xzOf(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstdOf(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// tree writes a small module directory, in all three kinds of compression.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{
		"modules.builtin":                []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-ring.ko\n"),
		"kernel/a/failover.ko":           kerneltest.Module("license=GPL"),
		"kernel/a/net-failover.ko.xz":    xzOf(t, kerneltest.Module("depends=failover", "name=net_failover")),
		"kernel/b/virtio_net.ko.zst":     zstdOf(t, kerneltest.Module("depends=net-failover,virtio_ring", "alias=virtio:d00000001v*", "alias=net-pf-1")),
		"kernel/c/xfs.ko":                kerneltest.Module("depends=", "softdep=pre: crc32c failover post: later", "alias=fs-xfs"),
		"kernel/c/broken-dependence.ko":  kerneltest.Module("depends=gone"),
		"kernel/c/not_elf.ko":            []byte("text"),
		"kernel/c/no_modinfo_at_all.txt": []byte("not looked at"),
	}
	for name, b := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestSelect(t *testing.T) {
	m, err := OpenTree(tree(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Select([]Group{
		{Name: "net", Required: true, Modules: []string{"virtio_*"}},
		{Name: "disk", Required: true, Modules: []string{"ext4", "xfs"}},
		{Name: "odd", Modules: []string{"nowhere"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"failover.ko", "net_failover.ko", "virtio_net.ko", "xfs.ko"}, s.Order); diff != "" {
		t.Error(diff)
	}
	for _, name := range s.Order {
		if !bytes.HasPrefix(s.Files[name], []byte(elf.ELFMAG)) {
			t.Errorf("%s is not a plain module", name)
		}
	}
	x := s.Index.Lookup("xfs")
	if x == nil || !slices.Equal(x.Soft, []string{"failover"}) || !slices.Equal(x.Aliases, []string{"fs-xfs"}) {
		t.Errorf("xfs is %+v", x)
	}
	if !s.Index.IsBuiltin("virtio-ring") {
		t.Error("virtio_ring is not listed as built in")
	}
	if diff := cmp.Diff([]string{"nowhere"}, s.Absent); diff != "" {
		t.Error(diff)
	}
	if s.Costs[0].Modules != 3 || s.Costs[1].Modules != 1 || s.Costs[1].Bytes != len(s.Files["xfs.ko"]) {
		t.Errorf("costs are %+v", s.Costs)
	}
}

func TestSelectRefuses(t *testing.T) {
	for _, c := range []struct{ pattern, says string }{
		{"absent", "no module absent"},
		{"broken_*", "needs gone, which is nowhere"},
		{"not_elf", "not a kernel module"},
	} {
		m, err := OpenTree(tree(t))
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Select([]Group{{Name: "g", Required: true, Modules: []string{c.pattern}}})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.pattern, err, c.says)
		}
	}
}

func TestOpenTreeRefuses(t *testing.T) {
	if _, err := OpenTree(t.TempDir()); err == nil {
		t.Error("an empty directory was taken")
	}
	dir := tree(t)
	if err := os.Remove(filepath.Join(dir, "modules.builtin")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTree(dir); err == nil {
		t.Error("a directory without modules.builtin was taken")
	}
}

func TestSoftBefore(t *testing.T) {
	for line, want := range map[string]string{
		"pre: a b-c":         "a b_c",
		"pre: a post: b":     "a",
		"post: b pre: a":     "a",
		"platform: x pre: y": "y",
		"a b":                "",
		"":                   "",
	} {
		if got := strings.Join(softBefore(line), " "); got != want {
			t.Errorf("%q gives %q, want %q", line, got, want)
		}
	}
}

func TestDecompressIsBounded(t *testing.T) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := w.EncodeAll(make([]byte, maxModule+1), nil)
	if _, err := decompress("x.ko.zst", bomb); err == nil {
		t.Error("a module that unpacks to more than the bound was taken")
	}
}

func TestFromFiles(t *testing.T) {
	dir := tree(t)
	image := filepath.Join(dir, "vmlinuz")
	if _, err := FromFiles(image, dir); err == nil {
		t.Error("a missing image was taken")
	}
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFiles(image, image); err == nil {
		t.Error("a file was taken for the module directory")
	}
	if k, err := FromFiles(image, dir); err != nil || k.Image != image || k.Release != filepath.Base(dir) {
		t.Errorf("%+v, %v", k, err)
	}
}

// TestDebianKernels holds the tables against the kernels that apt offers today:
// everything the groups name is there, and every module can be ordered.
func TestDebianKernels(t *testing.T) {
	for _, kind := range Kinds {
		t.Run(kind.Name, func(t *testing.T) { checkDebianKernel(t, kind) })
	}
}

func checkDebianKernel(t *testing.T, kind Kind) {
	user, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache folder:", err)
	}
	k, err := FromApt(t.Context(), kind, filepath.Join(user, "wherry"), func(s string) { t.Log(s) })
	if errors.Is(err, deb.ErrNoApt) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(k.Release, "cloud-amd64") != (kind.Name == "cloud") || !strings.Contains(k.Package, k.Release) {
		t.Errorf("kernel %+v", k)
	}
	m, err := OpenTree(k.Modules)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Select(kind.Root)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d modules", len(s.Order))
	for _, c := range s.Costs {
		t.Logf("%-24s %4d modules %6.2f MB", c.Group, c.Modules, float64(c.Bytes)/1e6)
	}
	if len(s.Absent) > 0 {
		t.Errorf("Debian's kernel has none of %q: take them off the table", s.Absent)
	}
	for _, x := range s.Index.Modules {
		if _, err := s.Index.Order(x.Name); err != nil {
			t.Error(err)
		}
		if !bytes.HasSuffix(s.Files[x.File], []byte("~Module signature appended~\n")) {
			t.Errorf("%s has lost its signature", x.File)
		}
	}
}
