// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/format/modindex"
	"wherry.example/wherry/internal/linux/mount"
	"wherry.example/wherry/internal/linux/power"
)

// TestTablesPrint wants each step of the boot to say what it is, and no two the same.
func TestTablesPrint(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range []stage{systemStage, kernelPartsStage} {
		if s.essential && s.hint == "" {
			t.Errorf("%s ends the boot without a hint", s.name)
		}
		for _, step := range s.steps {
			line := step.String()
			if seen[line] || len(line) < 8 || strings.Contains(line, "%!") || strings.Contains(line, "\n") {
				t.Errorf("%s: a step prints itself as %q", s.name, line)
			}
			seen[line] = true
		}
	}
}

func TestEssentialStageEndsTheBoot(t *testing.T) {
	broken := directory{"/proc/no/such", 0o755}
	m := &machine{}
	err := m.do(stage{name: "x", essential: true, hint: "Do this.", steps: []step{broken}})
	if !errors.Is(err, os.ErrNotExist) || !strings.HasSuffix(err.Error(), "\nDo this.") || !strings.HasPrefix(err.Error(), "x: make /proc/no/such: ") {
		t.Errorf("essential: %v", err)
	}
	after := filepath.Join(t.TempDir(), "made")
	if err := m.do(stage{name: "x", steps: []step{broken, directory{after, 0o755}}}); err != nil {
		t.Errorf("not essential: %v", err)
	}
	if _, err := os.Stat(after); err != nil {
		t.Error("a failed step kept the next one from being done")
	}
}

func TestToUnmount(t *testing.T) {
	var all []mount.Entry
	for _, target := range []string{"/", "/dev", "/proc", "/sys", "/run", "/tmp", "/dev/pts", "/sys/fs/cgroup", "/state",
		"/state/engine/rootfs", "/devices", "/run/x y"} {
		all = append(all, mount.Entry{Target: target})
	}
	var got []string
	for _, e := range toUnmount(all) {
		got = append(got, e.Target)
	}
	want := []string{"/run/x y", "/devices", "/state/engine/rootfs", "/state", "/tmp", "/run"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The mount that holds the file below the root is the deepest one on its path,
// and none while the root is in memory.
func TestUnderRoot(t *testing.T) {
	var all []mount.Entry
	for _, target := range []string{"/", "/dev", "/state", "/state/engine/rootfs", "/statement", "/run"} {
		all = append(all, mount.Entry{Target: target})
	}
	for file, want := range map[string]string{
		"/state/machine/osimage/1.squashfs": "/state",
		"/state/engine/rootfs/x":            "/state/engine/rootfs",
		"/root.squashfs":                    "",
		"/dev/vda":                          "",
	} {
		if got := underRoot(all, []string{file}); got != want {
			t.Errorf("%s is under %q, want %q", file, got, want)
		}
	}
	if got := underRoot(all, nil); got != "" {
		t.Errorf("nothing is under %q", got)
	}
}

// devices is a /sys with one device for each modalias.
func devices(t *testing.T, aliases map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	for place, alias := range aliases {
		dir := filepath.Join(sys, place)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(alias), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

func TestColdplugPlan(t *testing.T) {
	sys := devices(t, map[string]string{
		"bus/pci/devices/0000:00:1f.2":   "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01\n",
		"bus/pci/devices/0000:00:02.0":   "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00\n",
		"bus/virtio/devices/virtio0":     "virtio:d00000001v00001AF4\n",
		"bus/virtio/devices/virtio1":     "virtio:d00000001v00001AF4\n",
		"bus/virtio/devices/virtio2":     "virtio:d00000004v00001AF4\n",
		"bus/serio/devices/serio1":       "serio:ty01pr00id00ex00\n",
		"bus/cpu/devices/cpu0":           "cpu:type:x86,ven0000fam0006mod000F:feature:,0000,0001\n",
		"bus/platform/devices/empty":     "",
		"bus/platform/devices/bomb":      strings.Repeat("x", maxAlias+1),
		"class/input/input0":             "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw\n",
		"bus/acpi/devices/LNXPWRBN:00":   "acpi:LNXPWRBN:\n",
		"bus/acpi/devices/QEMU0002:00":   "acpi:QEMU0002:\n",
		"bus/pci/drivers/nothing/device": "pci:not-a-device",
	})
	index := &modindex.Index{Modules: []modindex.Module{
		{Name: "ahci", Aliases: []string{"pci:v*d*sv*sd*bc01sc06i01*"}},
		{Name: "e1000e", Aliases: []string{"pci:v00008086d000010D3sv*sd*bc*sc*i*"}},
		{Name: "virtio_net", Aliases: []string{"virtio:d00000001v*"}},
		{Name: "virtio_rng", Aliases: []string{"virtio:d00000004v*"}},
		{Name: "psmouse", Aliases: []string{"serio:ty01pr*id*ex*"}},
		{Name: "aesni_intel", Aliases: []string{"cpu:type:x86,ven*fam*mod*:feature:*0001*"}},
		{Name: "evdev", Aliases: []string{"input:b*v*p*e*-e*,*"}},
		{Name: "button", Aliases: []string{"acpi*:LNXPWRBN:*"}},
		{Name: "qemu_fw_cfg", Aliases: []string{"acpi*:QEMU0002:*"}},
	}}
	for entropy, want := range map[bool][2]string{
		true:  {"qemu_fw_cfg e1000e virtio_net", "button ahci virtio_rng"},
		false: {"qemu_fw_cfg e1000e virtio_net virtio_rng", "button ahci"},
	} {
		soon, later := split(aliases(sys), entropy)
		got := [2]string{strings.Join(wanted(index.Match, soon), " "), strings.Join(wanted(index.Match, later), " ")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entropy %v: %s", entropy, diff)
		}
	}
}

// TestSurvive: a panic ends the function, not the process.
func TestSurvive(t *testing.T) {
	m := &machine{}
	func() {
		defer m.survive("test")
		var p *machine
		p.flags.debug = true
	}()
}

func TestRequestCountsOnce(t *testing.T) {
	m := &machine{ends: make(chan power.End, 1)}
	for range 3 {
		m.request(power.Off, "test") // would block on the second if it counted
	}
	if len(m.ends) != 1 {
		t.Errorf("%d requests", len(m.ends))
	}
}
