// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disklayout

import (
	"fmt"
	"maps"
	"slices"

	"wherry.example/wherry/internal/format/fat"
)

const (
	// VolumeLabel is that of the boot partition's file system.
	VolumeLabel = "WHERRY"
	// LoaderPath is where firmware finds the loader by itself, SecondLoaderPath
	// the copy that other systems on the disk do not overwrite.
	LoaderPath       = "EFI/BOOT/BOOTX64.EFI"
	SecondLoaderPath = "EFI/systemd/systemd-bootx64.efi"
	// SlotsFolder holds the OS files, KeysFolder what the loader can enrol for
	// Secure Boot, SettingsPath how the loader behaves.
	SlotsFolder  = "EFI/Linux"
	KeysFolder   = "loader/keys/auto"
	SettingsPath = "loader/loader.conf"
	// ConfigPath is where a live medium may have a configuration for the machine
	// that is started from it. Whoever owns the medium may write it there.
	ConfigPath = "wherry.yaml"
	// EnrollSetting is the line of the settings that has the loader enrol the keys.
	EnrollSetting = "secure-boot-enroll force"

	// slots is how many OS files the boot partition has room for: the one that
	// runs, the one before it, and the one that is being written.
	slots = 3
)

// Boot is what is in a fresh boot partition or live medium.
type Boot struct {
	Version string
	OS      []byte
	Loader  []byte // systemd-boot
	// Keys are files to be enrolled for Secure Boot, by name (PK.auth …).
	Keys map[string][]byte
	// Enroll has the loader enrol them by itself where the firmware is in setup
	// mode; else its menu offers it.
	Enroll bool
	// Config is the configuration on a live medium; empty: none.
	Config []byte
}

// OSPath is where an OS file lies. A file that was not tried yet has a count of
// tries in its name; the one of a fresh disk has none, since there is no older
// one to go back to.
func OSPath(version string) string { return SlotsFolder + "/wherry_" + version + ".efi" }

// Files of a disk's boot partition.
func (b Boot) Files() ([]fat.File, error) {
	const reserve = 4 << 20 // for tables, and what else the firmware puts there
	if need := slots*len(b.OS) + 2*len(b.Loader) + reserve; need > BootBytes {
		return nil, fmt.Errorf("an OS file of %d bytes is too large: the boot partition of %d must have room for %d of them", len(b.OS), BootBytes, slots)
	}
	b.Config = nil // a disk has a state for it
	return append(b.LiveFiles(), fat.File{Path: SecondLoaderPath, Data: b.Loader}), nil
}

// LiveFiles are those of a live medium, which nothing is ever added to.
func (b Boot) LiveFiles() []fat.File {
	files := []fat.File{
		{Path: LoaderPath, Data: b.Loader},
		{Path: OSPath(b.Version), Data: b.OS},
		{Path: SettingsPath, Data: []byte(b.settings())},
	}
	for _, name := range slices.Sorted(maps.Keys(b.Keys)) {
		files = append(files, fat.File{Path: KeysFolder + "/" + name, Data: b.Keys[name]})
	}
	if len(b.Config) > 0 {
		files = append(files, fat.File{Path: ConfigPath, Data: b.Config})
	}
	return files
}

// settings of systemd-boot: start the newest OS file at once, and let nobody
// change the command line.
func (b Boot) settings() string {
	text := "timeout 0\neditor no\n"
	if b.Enroll {
		text += EnrollSetting + "\n"
	}
	return text
}
