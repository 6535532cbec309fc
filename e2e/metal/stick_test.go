// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package metal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// release2 is on the stick.
const release2 = "1.1.0"

// bundle makes the next release, in the file that is carried to machines.
func bundle(t *testing.T, p *fixture.Publisher, first fixture.Release) []byte {
	t.Helper()
	p.Publish(p.Variant(first, release2, fixture.Change{Cmdline: "wherry.test=carried"}))
	file := filepath.Join(t.TempDir(), "bundle")
	p.Wherry("bundle", release2, "--output", file)
	return read(t, file)
}

// stick makes a USB stick with five partitions: four that are hostile or torn, and
// behind them the one that somebody wants to be found.
func stick(t *testing.T, good []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stick")
	write(t, file, nil)
	const partMiB, firstMiB = 64, 1
	truncate(t, file, (5*partMiB+2)<<20)
	args := []string{"-a", "2048"}
	for n := range 5 {
		args = append(args, "-n", fmt.Sprintf("%d:%dM:+%dM", n+1, firstMiB+n*partMiB, partMiB), "-t", fmt.Sprint(n+1, ":0700"))
	}
	tool(t, "sgdisk", append(args, file)...)
	for n, part := range []string{thousand(t), sparse(t), torn(t, good), forged(t, good), fat(t, map[string][]byte{release2 + ".wherry": good, "photo.jpg": {1, 2, 3}})} {
		tool(t, "dd", "if="+part, "of="+file, "bs=1M", fmt.Sprint("seek=", firstMiB+n*partMiB), "conv=notrunc,sparse", "status=none")
	}
	return file
}

// fat makes a FAT file system with files.
func fat(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "fat")
	write(t, file, nil)
	truncate(t, file, 64<<20)
	tool(t, "mkfs.fat", "-F", "32", "-s", "1", file)
	args := []string{"-i", file}
	for name, data := range files {
		write(t, filepath.Join(dir, name), data)
		args = append(args, filepath.Join(dir, name))
	}
	tool(t, "mcopy", append(args, "::/")...)
	return file
}

// thousand has a thousand files that call themselves bundles.
func thousand(t *testing.T) string {
	files := map[string][]byte{}
	for n := range 1000 {
		files[fmt.Sprintf("%04d.wherry", n)] = bytes.Repeat([]byte("no bundle "), 1000)
	}
	return fat(t, files)
}

// sparse has a file of 10 GB, on ext4: FAT has none so large.
func sparse(t *testing.T) string {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "ext4")
	write(t, filepath.Join(dir, "huge.wherry"), nil)
	truncate(t, filepath.Join(dir, "huge.wherry"), 10<<30)
	tool(t, "mkfs.ext4", "-q", "-d", dir, file, "64M")
	return file
}

// torn was pulled out while it was written: its tables and its topmost folder are noise.
func torn(t *testing.T, good []byte) string {
	file := fat(t, map[string][]byte{"torn.wherry": good})
	data := read(t, file)
	noise := rand.NewChaCha8([32]byte{7})
	for at, end := 32*512, 4<<20; at < end; at += 64 {
		_, _ = noise.Read(data[at : at+32]) // never fails
	}
	write(t, file, data)
	return file
}

// forged has the bundle with another signature in its timestamp.
func forged(t *testing.T, good []byte) string {
	data := bytes.Clone(good)
	at := regexp.MustCompile(`"sig": ?"[0-9a-f]`).FindIndex(data)
	if at == nil {
		t.Fatal("the bundle has no signature")
	}
	for ; at != nil; at = regexp.MustCompile(`"sig": ?"[0-9a-e]`).FindIndex(data) {
		data[at[1]-1] = 'f' // in all of its files
	}
	return fat(t, map[string][]byte{"forged.wherry": data})
}

// carried wants the release of the stick to be taken, and all else to be told.
func carried(t *testing.T, m *vmtest.Machine, u *vmtest.User) {
	t.Helper()
	const limit = 5 * time.Minute
	begin := time.Now()
	m.WaitConsole("from "+release1+" to "+release2+": restarting", limit)
	t.Logf("the stick was looked at and its release staged in %.0f s", time.Since(begin).Seconds())
	m.WaitReboot()
	m.WaitConsole(release2+" is here to stay", limit)
	m.WaitConsole(release2+`\.wherry on the USB stick: `+release2+" runs already", limit)
	log := u.Run("machine", "log") // on the console lines are cut
	for what, pattern := range map[string]string{
		"no bundle":     `file=0000\.wherry error="read bundle: .*is this a \.wherry file`,
		"the last of 8": `file=0007\.wherry error="read bundle`,
		"a thousand":    `the USB stick sd[a-z]1: it has 1000 bundles: the first 8`,
		"a huge one":    `file=huge\.wherry error="a bundle of 10737418240 bytes: the limit is 2147483648`,
		"a torn disk":   `the USB stick sd[a-z]3: it holds vfat that cannot be read`,
		"a wrong hand":  `file=forged\.wherry error="repository: .*signed`,
	} {
		if !regexp.MustCompile(pattern).MatchString(log) {
			t.Errorf("%s: the log does not tell %q:\n%s", what, pattern, regexp.MustCompile(`(?m)^.*stick.*`).FindAllString(log, -1))
		}
	}
	if strings.Contains(log, "0008.wherry") {
		t.Error("more than eight bundles were looked at")
	}
	var list []struct{ To, State, Source string }
	if err := json.Unmarshal([]byte(u.Run("machine", "update", "history", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].To != release2 || list[0].State != "committed" || list[0].Source != "usb stick" {
		t.Errorf("the history says %+v", list)
	}
	t.Logf("it runs and stays after %.0f s", time.Since(begin).Seconds())
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, file string, size int64) {
	t.Helper()
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
