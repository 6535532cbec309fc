// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// debian is the peer that most people would use: Debian's minimal system with
// systemd, containerd and runc, and the same kernel package as Wherry's.
type debian struct {
	dir   string // where it is kept between runs
	suite string
}

const debianPackages = "systemd-sysv,udev,dbus,containerd,runc,iproute2,kmod,initramfs-tools,zstd,ca-certificates"

// debianBench runs inside the peer at boot. The first boot imports the image,
// the second is measured.
const debianBench = `#!/bin/sh
run="ctr run --cap-add CAP_SYS_RAWIO"
if ! [ -e /bench/imported ]; then
	ctr image import /bench/image.tar && touch /bench/imported
	sync
	exec systemctl poweroff
fi
/bench/probe mark R
$run --rm $IMAGE first
sleep 20
echo "bench idle" $(cat /proc/meminfo) > /dev/ttyS0
/bench/probe mark S
for i in $(seq $STARTS); do $run --rm $IMAGE c$i; done
/bench/probe mark E
for i in $(seq $IDLE); do $run -d $IMAGE p$i /probe sleep; done
sleep 20
echo "bench loaded" $(cat /proc/meminfo) > /dev/ttyS0
exec systemctl poweroff
`

const debianUnit = `[Unit]
After=containerd.service
Requires=containerd.service
[Service]
Type=oneshot
Environment=IMAGE=` + imageName + `
ExecStart=/bench/run
[Install]
WantedBy=multi-user.target
`

func (d *debian) root() string { return filepath.Join(d.dir, "root") }
func (d *debian) disk() string { return filepath.Join(d.dir, "disk.qcow2") }

// build makes the peer's disk, unless it is there. It needs root: debootstrap
// runs the packages' own scripts.
func (d *debian) build(ctx context.Context) error {
	if _, err := d.modulesBytes(); err == nil {
		return nil
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.bootstrap, d.installKernel, d.installBench, d.makeDisk, d.firstBoot, d.measureModules} {
		if err := step(ctx); err != nil {
			os.Remove(d.modulesFile())
			return fmt.Errorf("build the Debian peer: %w", err)
		}
	}
	return os.RemoveAll(filepath.Join(d.root()))
}

// modulesFile holds the size of the peer's modules. It is written last: a peer with it is whole.
func (d *debian) modulesFile() string { return filepath.Join(d.dir, "modules") }

func (d *debian) modulesBytes() (int64, error) {
	b, err := os.ReadFile(d.modulesFile())
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(b), 10, 64)
}

func (d *debian) measureModules(context.Context) error {
	sum := int64(0)
	err := filepath.WalkDir(filepath.Join(d.root(), "usr/lib/modules"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		i, err := e.Info()
		if err == nil {
			sum += i.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(d.modulesFile(), []byte(strconv.FormatInt(sum, 10)), 0o644)
}

func command(ctx context.Context, name string, args ...string) error {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastBytes(out, 2000))
	}
	return nil
}

func lastBytes(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (d *debian) bootstrap(ctx context.Context) error {
	return command(ctx, "debootstrap", "--variant=minbase", "--include="+debianPackages, d.suite, d.root())
}

// installKernel takes the archives from this machine's apt: the kernel is in the security archive.
func (d *debian) installKernel(ctx context.Context) error {
	for _, name := range []string{"etc/apt/sources.list", "etc/apt/sources.list.d"} {
		if _, err := os.Stat("/" + name); err != nil {
			continue
		}
		if err := command(ctx, "cp", "-rT", "/"+name, filepath.Join(d.root(), name)); err != nil {
			return err
		}
	}
	if err := command(ctx, "chroot", d.root(), "apt-get", "update"); err != nil {
		return err
	}
	if err := command(ctx, "chroot", d.root(), "apt-get", "install", "-y", "--no-install-recommends", "linux-image-6.12-cloud-amd64"); err != nil {
		return err
	}
	return command(ctx, "chroot", d.root(), "apt-get", "clean")
}

func (d *debian) installBench(context.Context) error {
	dir := filepath.Join(d.root(), "bench")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	script := strings.NewReplacer("$STARTS", strconv.Itoa(starts), "$IDLE", strconv.Itoa(idleContainers)).Replace(debianBench)
	for path, content := range map[string]string{
		"bench/run": script, "bench/probe": string(probe()), "etc/systemd/system/bench.service": debianUnit,
		"etc/fstab": "/dev/vda / ext4 rw 0 1\n", "etc/hostname": "peer\n",
	} {
		if err := os.WriteFile(filepath.Join(d.root(), path), []byte(content), 0o755); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, "image.tar"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := probeImage(f); err != nil {
		return err
	}
	const wants = "etc/systemd/system/multi-user.target.wants"
	return os.Symlink("/etc/systemd/system/bench.service", filepath.Join(d.root(), wants, "bench.service"))
}

func (d *debian) makeDisk(ctx context.Context) error {
	raw := filepath.Join(d.dir, "disk.raw")
	defer os.Remove(raw)
	for pattern, name := range map[string]string{"vmlinuz-*": "kernel", "initrd.img-*": "initramfs"} {
		found, err := filepath.Glob(filepath.Join(d.root(), "boot", pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("boot/%s: %d files, want one", pattern, len(found))
		}
		if err := command(ctx, "cp", found[0], filepath.Join(d.dir, name)); err != nil {
			return err
		}
	}
	if err := command(ctx, "mke2fs", "-q", "-t", "ext4", "-d", d.root(), raw, "3G"); err != nil {
		return err
	}
	return command(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, d.disk())
}

func (d *debian) spec(disk string) vmSpec {
	return vmSpec{
		name: "debian-containerd", kernel: filepath.Join(d.dir, "kernel"), initramfs: filepath.Join(d.dir, "initramfs"), disk: disk,
		cmdline: "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=false " + commonCmdline,
	}
}

func (d *debian) firstBoot(ctx context.Context) error {
	v, err := startVM(ctx, filepath.Join(d.dir, "first"), d.spec(d.disk()))
	if err != nil {
		return err
	}
	select {
	case <-v.exited:
	case <-ctx.Done():
		v.kill()
		return fmt.Errorf("first boot: %w\n%s", ctx.Err(), v.tail())
	}
	return os.RemoveAll(v.dir)
}

// measure boots a copy of the disk.
func (d *debian) measure(ctx context.Context, dir string) (figures, error) {
	var f figures
	disk, err := overlay(ctx, dir, d.disk())
	if err != nil {
		return f, err
	}
	v, err := startVM(ctx, dir, d.spec(disk))
	if err != nil {
		return f, err
	}
	defer v.kill()
	f.BytesKernel, f.BytesInitramfs = size(filepath.Join(d.dir, "kernel")), size(filepath.Join(d.dir, "initramfs"))
	f.BytesRoot = size(d.disk())
	if f.BytesModules, err = d.modulesBytes(); err != nil {
		return f, err
	}
	if f.InstructionsReady, err = v.mark(ctx, "R", 1); err != nil {
		return f, err
	}
	if f.InstructionsFirstContainer, err = v.mark(ctx, "C", 1); err != nil {
		return f, err
	}
	before, err := v.mark(ctx, "S", 1)
	if err != nil {
		return f, err
	}
	after, err := v.mark(ctx, "E", 1)
	if err != nil {
		return f, err
	}
	f.ContainerStartCPUMS = float64(after-before) / starts / 1e6
	loaded := regexp.MustCompile(`bench loaded .*`)
	if err := v.until(ctx, "memory", func(_, c string) bool { return loaded.MatchString(c) && strings.HasSuffix(c, "\n") }); err != nil {
		return f, err
	}
	idleMB, err := usedMB(v.said(), "bench idle")
	if err != nil {
		return f, err
	}
	loadedMB, err := usedMB(v.said(), "bench loaded")
	if err != nil {
		return f, err
	}
	f.IdleMB, f.ContainerMB = idleMB, (loadedMB-idleMB)/idleContainers
	return f, nil
}

var meminfo = regexp.MustCompile(`MemTotal: (\d+) kB .*MemAvailable: (\d+) kB`)

// usedMB reads MemTotal − MemAvailable from a line of the console.
func usedMB(console, label string) (float64, error) {
	for line := range strings.Lines(console) {
		if m := meminfo.FindStringSubmatch(line); m != nil && strings.Contains(line, label) {
			total, _ := strconv.ParseFloat(m[1], 64)
			available, _ := strconv.ParseFloat(m[2], 64)
			return (total - available) * 1024 / 1e6, nil
		}
	}
	return 0, fmt.Errorf("no line %q with meminfo on the console", label)
}

// overlay makes a disposable disk over a base.
func overlay(ctx context.Context, dir, base string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	base, err := filepath.Abs(base)
	if err != nil {
		return "", err
	}
	disk := filepath.Join(dir, "disk.qcow2")
	return disk, command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", disk)
}

func size(path string) int64 {
	i, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return i.Size()
}

// patience is how long a whole peer run may take under emulation.
const patience = 15 * time.Minute
