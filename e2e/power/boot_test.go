// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// judge has others read the boot partition: it has these OS files, none else but
// those that are never started again, and each to its last byte.
func (g *rig) judge(want ...string) {
	g.t.Helper()
	part := g.dump(g.disk, filepath.Join(g.t.TempDir(), "esp"), espFrom, espTo)
	g.fsck(part)
	dir := g.t.TempDir()
	run(g.t, "mcopy", "-n", "-i", part, "::/EFI/Linux/*", dir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		g.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			g.t.Fatal(err)
		}
		version, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "wherry_"), ".efi"), "+")
		if sum := fmt.Sprintf("%x", sha256.Sum256(data)); sum != g.published[version] {
			g.t.Errorf("%s is not the file that was published: %d bytes", e.Name(), len(data))
		}
	}
	for _, name := range want {
		if !slices.Contains(names, name) {
			g.t.Errorf("the boot partition has %v, and not %s", names, name)
		}
	}
	for _, name := range names {
		if !slices.Contains(want, name) && !strings.HasSuffix(name, "+0.efi") {
			g.t.Errorf("the boot partition has %v, and should have %v", names, want)
		}
	}
}

// harmless is what fsck.fat may say of a partition that was in use when the power went. Linux leaves the mark
// of that there for ever, and lost clusters, their count and the table's second copy are put right before the next file is written.
var harmless = regexp.MustCompile(`(?m)^(fsck\.fat .*|There are differences between boot sector and its backup\.|This is mostly harmless\. .*| +65:01/00| +Not automatically fixing this\.|` +
	`FATs differ but appear to be intact\.| +Using first FAT\.|Dirty bit is set\. .*| *Automatically removing dirty bit\.|Free cluster summary wrong.*| +Auto-correcting\.|Reclaimed \d+ unused clusters? .*|Leaving filesystem unchanged\.|` +
	`.*: \d+ files, \d+/\d+ clusters|)\n`)

func (g *rig) fsck(part string) {
	g.t.Helper()
	out, err := exec.Command("fsck.fat", "-n", part).CombinedOutput()
	if rest := harmless.ReplaceAllString(string(out), ""); rest != "" {
		g.t.Errorf("fsck.fat: %v: %q\n%s", err, rest, out)
	}
}

// outsideOfSlots is how many bytes of the boot partition are taken by something else than OS files.
func (g *rig) outsideOfSlots(u update) int64 {
	g.t.Helper()
	var boot [512]byte
	if _, err := g.disk.ReadAt(boot[:], espFrom); err != nil {
		g.t.Fatal(err)
	}
	cluster, start := int64(boot[13])*512, espFrom+int64(little.Uint16(boot[14:]))*512
	table := make([]byte, int64(little.Uint32(boot[36:]))*512)
	if _, err := g.disk.ReadAt(table, start); err != nil {
		g.t.Fatal(err)
	}
	var used int64
	for i := 8; i < len(table); i += 4 { // the first two entries are no clusters
		if little.Uint32(table[i:])&0x0fffffff != 0 {
			used += cluster
		}
	}
	for _, s := range u.Slots {
		used -= (bytesOf(s.Bytes) + cluster - 1) / cluster * cluster
	}
	return used
}

func bytesOf(n json.Number) int64 {
	v, _ := strconv.ParseInt(n.String(), 10, 64)
	return v
}

func TestHarmless(t *testing.T) {
	const marked = `fsck.fat 4.2 (2021-01-31)
There are differences between boot sector and its backup.
This is mostly harmless. Differences: (offset:original/backup)
  65:01/00
  Not automatically fixing this.
FATs differ but appear to be intact.
  Using first FAT.
Dirty bit is set. Fs was not properly unmounted and some data may be corrupt.
 Automatically removing dirty bit.
Free cluster summary wrong (117691 vs. really 117690)
  Auto-correcting.
Reclaimed 12 unused clusters (49152 bytes).

Leaving filesystem unchanged.
/tmp/a/esp: 11 files, 13119/130810 clusters
`
	if rest := harmless.ReplaceAllString(marked, ""); rest != "" {
		t.Errorf("counts as damage: %q", rest)
	}
	if rest := harmless.ReplaceAllString(marked+"/EFI/Linux/wherry_1.0.0.efi and\n/EFI/Linux/wherry_1.1.0.efi\n  share clusters.\n", ""); !strings.Contains(rest, "share clusters") {
		t.Errorf("damage is harmless: %q", rest)
	}
}
