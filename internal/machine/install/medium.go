// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/bootcount"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/iso9660"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/internal/linux/efivar"
	"wherry.example/wherry/internal/linux/mount"
)

// Bounds of what is read from a medium, which anybody may have written.
const (
	maxOS     = disklayout.BootBytes / 3
	maxLoader = 4 << 20
	maxText   = 64 << 10
	maxNames  = 256
	maxKeys   = 16
)

// errNoMedium: there is nothing to copy.
var errNoMedium = errors.New("the file of the operating system is not on this machine: it was started from the network or directly by a hypervisor. Start it from the live medium (`wherry build --format iso`) or from a disk to install it")

// bootedFrom is the partition that the OS file was loaded from; zero: a CD. The
// boot stub tells.
func bootedFrom(v efivar.Variables) (gpt.GUID, error) {
	if err := v.Open(); err != nil {
		return gpt.GUID{}, errNoMedium
	}
	stub, err := v.Text(efivar.Name{Name: "StubInfo", Vendor: efivar.Loader})
	if err != nil || stub == "" {
		return gpt.GUID{}, errNoMedium
	}
	text, err := v.Text(efivar.Name{Name: "LoaderDevicePartUUID", Vendor: efivar.Loader})
	if err != nil || text == "" {
		return gpt.GUID{}, err
	}
	return gpt.ParseGUID(text)
}

// openMedium mounts what the machine was started from, read-only.
func (i *Installer) openMedium(booted gpt.GUID) (*os.File, error) {
	if booted.IsZero() {
		for _, drive := range i.drives() {
			if isDisc(drive) {
				if err := i.Load("isofs"); err != nil {
					return nil, err
				}
				return mount.Hidden(drive, "iso9660", true)
			}
		}
		return nil, errNoMedium
	}
	list, err := i.lister.List()
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if path := partitionOn(d, booted); path != "" {
			if err := i.Load("vfat", "nls_cp437", "nls_ascii"); err != nil {
				return nil, err
			}
			return mount.Hidden(path, "vfat", true, [2]string{"codepage", "437"}, [2]string{"iocharset", "ascii"})
		}
	}
	return nil, errors.New("the disk or stick that the machine was started from is not there any more: put it back")
}

// partitionOn is the path of a partition; empty: it is not on this disk.
func partitionOn(d block.Disk, id gpt.GUID) string {
	f, err := block.OpenReading(d.Path)
	if err != nil {
		return ""
	}
	defer f.Close()
	t, err := gpt.Read(f, d.LogicalBytes, uint64(d.Bytes)/uint64(d.LogicalBytes))
	if err != nil {
		return ""
	}
	for _, p := range d.Partitions {
		if p.Number >= 1 && p.Number <= len(t.Partitions) && t.Partitions[p.Number-1].ID == id {
			return p.Path
		}
	}
	return ""
}

func (i *Installer) drives() []string {
	paths, _ := filepath.Glob("/dev/sr[0-9]*")
	return paths
}

// isDisc tells a CD of Wherry's by its label.
func isDisc(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // an empty drive
	}
	defer f.Close()
	head := make([]byte, 72)
	_, _ = f.ReadAt(head, iso9660.Start)
	return string(head[1:6]) == "CD001" && strings.HasPrefix(string(head[40:]), disklayout.LiveLabel+" ")
}

// Config reads the configuration that the medium has for the machine that is
// started from it. The error is fs.ErrNotExist where it has none.
func (i *Installer) Config(limit int64) ([]byte, error) {
	booted, err := bootedFrom(i.variables)
	if err != nil {
		return nil, err
	}
	root, err := i.openMedium(booted)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return readBounded(filepath.Join(root.Name(), disklayout.ConfigPath), limit)
}

// readMedium takes what the new disk needs. The OS file must be the one that
// runs: its own description has to say so.
func readMedium(root, version, edition string) (disklayout.Boot, error) {
	b := disklayout.Boot{Version: version}
	var err error
	if b.Loader, err = readBounded(filepath.Join(root, disklayout.LoaderPath), maxLoader); err != nil {
		return b, fmt.Errorf("read the boot loader: %w", err)
	}
	if _, err := pe.Parse(b.Loader); err != nil {
		return b, fmt.Errorf("the boot loader: %w", err)
	}
	name, err := osFile(root, version)
	if err != nil {
		return b, err
	}
	if b.OS, err = readBounded(filepath.Join(root, disklayout.SlotsFolder, name), maxOS); err != nil {
		return b, fmt.Errorf("read the OS file: %w", err)
	}
	if err := isOS(b.OS, version, edition); err != nil {
		return b, fmt.Errorf("OS file %s: %w", name, err)
	}
	if settings, err := readBounded(filepath.Join(root, disklayout.SettingsPath), maxText); err == nil {
		b.Enroll = slices.Contains(strings.Split(string(settings), "\n"), disklayout.EnrollSetting)
	}
	b.Keys, err = readKeys(filepath.Join(root, disklayout.KeysFolder))
	return b, err
}

// osFile finds the file of a version, whatever its counter says.
func osFile(root, version string) (string, error) {
	names, err := list(filepath.Join(root, disklayout.SlotsFolder))
	if err != nil {
		return "", fmt.Errorf("look for the OS file: %w", err)
	}
	for _, name := range names {
		if n, ok := bootcount.Parse(name); ok && n.Stem == "wherry_"+version {
			return name, nil
		}
	}
	return "", fmt.Errorf("look for the OS file: version %s, which runs, is not among %q", version, names)
}

// isOS compares what an OS file says of itself with what runs.
func isOS(data []byte, version, edition string) error {
	p, err := pe.Parse(data)
	if err != nil {
		return err
	}
	lines := strings.Split(string(p.Data(".osrel")), "\n")
	for _, want := range []string{"ID=wherry", "VERSION_ID=" + version, "VARIANT_ID=" + edition} {
		if !slices.Contains(lines, want) {
			return fmt.Errorf("it is not what runs here: its description does not say %s", want)
		}
	}
	return nil
}

// readKeys reads what can be enrolled for Secure Boot; none is no error.
func readKeys(dir string) (map[string][]byte, error) {
	names, err := list(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the keys for Secure Boot: %w", err)
	}
	keys := map[string][]byte{}
	for _, name := range names {
		if !strings.HasSuffix(name, ".auth") || len(keys) == maxKeys {
			continue
		}
		if keys[name], err = readBounded(filepath.Join(dir, name), maxText); err != nil {
			return nil, fmt.Errorf("read the keys for Secure Boot: %w", err)
		}
	}
	return keys, nil
}

func list(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxNames)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	slices.Sort(names)
	return names, err
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes: the limit is %d", filepath.Base(path), info.Size(), limit)
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(f, data)
	return data, err
}
