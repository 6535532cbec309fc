// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package torndisk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

const diskBytes = 1 << 20

func serve(t *testing.T) (*Disk, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{'0'}, diskBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, path
}

// qemuIO is QEMU's own client of the disk.
func qemuIO(d *Disk, commands ...string) *exec.Cmd {
	args := []string{"-f", "raw", "-t", "writeback"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	return exec.Command("qemu-io", append(args, "nbd:unix:"+filepath.Join(d.dir, "s"))...)
}

// cut works until the disk stops, and ends the client then.
func cut(t *testing.T, d *Disk, commands ...string) {
	t.Helper()
	c := qemuIO(d, commands...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Stopped():
	case <-time.After(30 * time.Second):
		t.Error("the disk did not stop")
	}
	c.Process.Kill()
	c.Wait() // by the signal
}

func tear(t *testing.T, d *Disk, path string, seed uint64) ([]byte, Torn) {
	t.Helper()
	torn, err := d.Tear(rand.New(rand.NewPCG(seed, 0)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data, torn
}

// A client that ends in order loses nothing, and sees what it wrote.
func TestOrder(t *testing.T) {
	d, path := serve(t)
	out, err := qemuIO(d, "write -P 0x31 4k 64k", "read -P 0x31 4k 64k", "read -P 0x30 68k 4k", "write -z 128k 4k", "read -P 0 128k 4k").CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("ailed")) {
		t.Fatalf("%v\n%s", err, out)
	}
	want := slices.Concat(bytes.Repeat([]byte{'0'}, 4<<10), bytes.Repeat([]byte{'1'}, 64<<10), bytes.Repeat([]byte{'0'}, 60<<10), make([]byte, 4<<10))
	got, torn := tear(t, d, path, 1)
	if torn.Unsafe != 0 || !bytes.Equal(got[:len(want)], want) || d.Writes() != 2 {
		t.Errorf("%+v after %d writes", torn, d.Writes())
	}
}

// What was flushed or forced is there after each cut; of what was not, each
// sector is as it was at some time since; and every mixture comes up.
func TestTear(t *testing.T) {
	seen := map[string]bool{}
	old, new, mixed := false, false, false
	for seed := range uint64(20) {
		d, path := serve(t)
		d.StopAtWrite(5)
		cut(t, d, "write -P 0x31 0 8k", "flush", "write -P 0x32 0 4k", "write -f -P 0x33 4k 2k", "write -P 0x34 0 4k", "write -P 0x35 16k 1k")
		got, torn := tear(t, d, path, seed)
		seen[torn.How] = true
		kinds := map[byte]bool{}
		for i := 0; i < diskBytes; i += sector {
			s := got[i : i+sector]
			allowed := "0"
			switch {
			case i < 4<<10:
				allowed = "124"
				kinds[s[0]] = true
			case i < 6<<10:
				allowed = "3"
			case i < 8<<10:
				allowed = "1"
			case i >= 16<<10 && i < 17<<10:
				allowed = "05"
			}
			if !bytes.Contains([]byte(allowed), s[:1]) || !bytes.Equal(s, bytes.Repeat(s[:1], sector)) {
				t.Fatalf("seed %d, %+v: sector %d is %q", seed, torn, i/sector, s[:1])
			}
		}
		if torn.Unsafe != 10 {
			t.Errorf("seed %d: %+v", seed, torn)
		}
		old, new, mixed = old || len(kinds) == 1 && kinds['1'], new || len(kinds) == 1 && kinds['4'], mixed || len(kinds) == 3
	}
	if len(seen) != len(ways)-1 || !old || !new || !mixed {
		t.Errorf("not everything came up: %v, all old %v, all new %v, mixed %v", seen, old, new, mixed)
	}
}

// The power can go with a write to a certain place, and comes back.
func TestTrap(t *testing.T) {
	d, path := serve(t)
	d.StopAfter(2, 512<<10, 513<<10)
	cut(t, d, "write -P 0x31 0 4k", "write -P 0x32 4k 4k", "write -P 0x33 512k 4k", "write -P 0x34 8k 4k", "write -P 0x35 12k 4k")
	if d.Writes() != 4 {
		t.Errorf("the power went after %d writes", d.Writes())
	}
	tear(t, d, path, 1)
	if out, err := qemuIO(d, "write -P 0x36 12k 4k", "read -P 0x36 12k 4k").CombinedOutput(); err != nil || bytes.Contains(out, []byte("ailed")) {
		t.Errorf("after the power came back: %v\n%s", err, out)
	}
}
