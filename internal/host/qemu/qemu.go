// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package qemu starts and drives virtual machines on your computer, for
// `wherry vm` and for the VM tests.
//
// It owns one directory per machine below a Store:
//
//	vm.json      Settings: what the machine has, kept over restarts
//	run.json     the running QEMU: pid, its start time, what the machine said when ready
//	config.yaml  the machine's configuration, handed over by fw_cfg opt/wherry/config
//	state.img    the state disk, a sparse raw file; with DiskImage the whole machine
//	firmware.fd  the variables of its firmware, where it boots by firmware
//	tpm/         what its TPM (a swtpm process beside QEMU) keeps, where it has one
//	console.log  everything the machine printed; console.log.1 is the older part
//	qemu.log     what QEMU itself printed at its last start
//	*.sock       QEMU's monitor (QMP) and the serial console
//	lock         held while one of these is changed
//
// QEMU runs in a session of its own and outlives the process that started it.
// A pid is believed only together with the time at which that process started,
// and nothing but that process is ever signalled. A machine is ready when its
// console shows the line that ParseReady reads. When a start does not get there,
// QEMU is ended and the error is a *StartError with the console's last lines
// and the likely cause.
package qemu

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"wherry.example/wherry/internal/atomicfile"
)

// APIPort is the port of the API inside the machine.
const APIPort = 9473

// Defaults of a machine that nothing was said about.
const (
	DefaultMemoryMiB = 1024
	DefaultCPUs      = 2
	DefaultDiskBytes = 10 << 30
)

// Settings are what a machine has. They are remembered over restarts.
type Settings struct {
	// Image is a directory with the files kernel and initramfs.
	Image string `json:"image"`
	// DiskImage is a disk (raw, qcow2, vhd or vmdk) that the state disk begins as; the
	// machine boots from it by UEFI firmware, and not from Image.
	DiskImage string `json:"diskImage,omitempty"`
	// CDROM is a live medium, read-only, that UEFI firmware boots before anything
	// else; the machine sees a CD, or with CDROMStick a disk.
	CDROM      string `json:"cdrom,omitempty"`
	CDROMStick bool   `json:"cdromStick,omitempty"`
	// Firmware has the machine boot by UEFI firmware from what is on its disk.
	Firmware bool `json:"firmware,omitempty"`
	// SecureBoot gives it firmware that can check signatures, with no keys yet.
	SecureBoot bool `json:"secureBoot,omitempty"`
	// PC gives it what computers have instead of virtio: SATA disks and Intel's
	// network adapter (e1000e).
	PC bool `json:"pc,omitempty"`
	// TPM gives it a TPM 2.0, by the program swtpm.
	TPM       bool `json:"tpm,omitempty"`
	MemoryMiB int  `json:"memoryMiB"`
	CPUs      int  `json:"cpus"`
	// DiskBytes is the size of the state disk; 0: none. A disk that exists is
	// grown, never shrunk.
	DiskBytes int64 `json:"diskBytes"`
	// ExtraDisks are raw image files attached after the state disk.
	ExtraDisks []string `json:"extraDisks,omitempty"`
	// APIPort is the loopback port that leads to the API; 0: a free one is chosen.
	APIPort  uint16    `json:"apiPort"`
	Forwards []Forward `json:"forwards,omitempty"`
	// Cmdline is added to the kernel's command line.
	Cmdline string `json:"cmdline,omitempty"`
	// Args are added to QEMU's.
	Args []string `json:"args,omitempty"`
}

// Run is a QEMU process and what its machine said.
type Run struct {
	PID          int       `json:"pid"`
	ProcessStart string    `json:"processStart"`
	StartedAt    time.Time `json:"startedAt"`
	Accelerator  string    `json:"accelerator"`
	// ConsoleOffset is where in console.log this run begins.
	ConsoleOffset int64 `json:"consoleOffset"`
	// ImageID tells what it booted; empty for an image without a manifest.
	ImageID string `json:"imageID,omitempty"`
	// TPM is the process beside QEMU.
	TPM tpmProcess `json:"tpm,omitzero"`
	// Ready is zero until the machine was ready.
	Ready Ready `json:"ready,omitzero"`
}

// ImageID tells an image from another that was built later in its place: by its
// manifest, which holds the checksums. It is empty where there is none.
func ImageID(dir string) string {
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// Store is the directory that holds the machines.
type Store struct{ Dir string }

// DefaultStore is $XDG_STATE_HOME/wherry/vm, or below ~/.local/state.
func DefaultStore() (Store, error) {
	base := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return Store{}, fmt.Errorf("find the directory for machines: %w", err)
		}
		base = filepath.Join(home, ".local", "state")
	}
	return Store{Dir: filepath.Join(base, "wherry", "vm")}, nil
}

// VM is one machine on this computer, running or not.
type VM struct {
	name string
	dir  string
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ErrNotFound says that there is no machine of that name.
var ErrNotFound = errors.New("no such virtual machine")

// Create returns the machine of that name, made when it does not exist.
func (s Store) Create(name string) (*VM, error) {
	if !nameRE.MatchString(name) {
		return nil, fmt.Errorf("machine name %q: use at most 63 lower-case letters, digits and dashes", name)
	}
	vm := &VM{name: name, dir: filepath.Join(s.Dir, name)}
	if err := os.MkdirAll(vm.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make machine %s: %w", name, err)
	}
	return vm, nil
}

// Open returns a machine that exists, else an error that is ErrNotFound.
func (s Store) Open(name string) (*VM, error) {
	vm := &VM{name: name, dir: filepath.Join(s.Dir, name)}
	if !nameRE.MatchString(name) || !vm.exists() {
		return nil, fmt.Errorf("%w: %q (see `wherry vm ls`)", ErrNotFound, name)
	}
	return vm, nil
}

// List returns the machines ordered by name.
func (s Store) List() ([]*VM, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list machines: %w", err)
	}
	var vms []*VM
	for _, e := range entries {
		if vm, err := s.Open(e.Name()); err == nil {
			vms = append(vms, vm)
		}
	}
	return vms, nil
}

// Name of the machine.
func (vm *VM) Name() string { return vm.name }

// Dir is the machine's directory.
func (vm *VM) Dir() string { return vm.dir }

func (vm *VM) path(name string) string { return filepath.Join(vm.dir, name) }

// exists: a machine whose first start did not succeed has only its disk.
func (vm *VM) exists() bool {
	_, settings := os.Stat(vm.path("vm.json"))
	_, disk := os.Stat(vm.path("state.img"))
	return settings == nil || disk == nil
}

// Settings reads what the machine has; the defaults when it was never started.
func (vm *VM) Settings() (Settings, error) {
	s := Settings{MemoryMiB: DefaultMemoryMiB, CPUs: DefaultCPUs, DiskBytes: DefaultDiskBytes}
	err := vm.readJSON("vm.json", &s)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	return s, err
}

func (vm *VM) saveSettings(s Settings) error { return vm.writeJSON("vm.json", s) }

// Config is the configuration document of the last start; nil when there is none.
func (vm *VM) Config() ([]byte, error) {
	data, err := os.ReadFile(vm.path("config.yaml"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// memory is what a start begins with: the files that a start rewrites. A file
// that did not exist is nil.
type memory map[string][]byte

func (vm *VM) remembered() (memory, error) {
	m := memory{"vm.json": nil, "config.yaml": nil}
	for name := range m {
		data, err := os.ReadFile(vm.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read what machine %s was made with: %w", vm.name, err)
		}
		m[name] = data
	}
	return m, nil
}

// restore puts the files back. The port of the API may have moved meanwhile,
// which the next start finds out.
func (m memory) restore(vm *VM) error {
	var errs []error
	for name, data := range m {
		if data != nil {
			errs = append(errs, atomicfile.Write(vm.path(name), data, 0o600))
			continue
		}
		if err := os.Remove(vm.path(name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run returns the running QEMU, and false when the machine does not run.
func (vm *VM) Run() (Run, bool) {
	var r Run
	if err := vm.readJSON("run.json", &r); err != nil {
		return Run{}, false
	}
	return r, processAlive(r.PID, r.ProcessStart)
}

// Info is a machine at a glance.
type Info struct {
	Name     string   `json:"name"`
	Running  bool     `json:"running"`
	Ready    bool     `json:"ready"`
	Paused   bool     `json:"paused,omitempty"` // only where it was asked for with VM.Paused
	API      string   `json:"api,omitempty"`
	Settings Settings `json:"settings"`
	Run      Run      `json:"run,omitzero"`
}

// Info reads the machine's settings and whether it runs.
func (vm *VM) Info() (Info, error) {
	s, err := vm.Settings()
	if err != nil {
		return Info{}, err
	}
	info := Info{Name: vm.name, Settings: s}
	if run, ok := vm.Run(); ok {
		info.Running, info.Run, info.Ready = true, run, run.Ready.Fingerprint != ""
	}
	if s.APIPort != 0 {
		info.API = fmt.Sprintf("127.0.0.1:%d", s.APIPort)
	}
	return info, nil
}

// Remove deletes the machine with its disk. One that runs is refused unless force.
func (vm *VM) Remove(force bool) error {
	unlock, err := vm.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if run, ok := vm.Run(); ok {
		if !force {
			return fmt.Errorf("machine %s is running: stop it first (`wherry vm stop %s`) or remove it with -f", vm.name, vm.name)
		}
		if err := vm.killRun(run); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(vm.dir); err != nil {
		return fmt.Errorf("remove machine %s: %w", vm.name, err)
	}
	return nil
}

func (vm *VM) readJSON(name string, v any) error {
	data, err := os.ReadFile(vm.path(name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w (remove the machine with `wherry vm rm %s` if it is broken)", vm.path(name), err, vm.name)
	}
	return nil
}

func (vm *VM) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return atomicfile.Write(vm.path(name), append(data, '\n'), 0o600)
}

// validate refuses settings that QEMU would answer with a riddle.
func (s Settings) validate() error {
	if s.MemoryMiB < 128 || s.MemoryMiB > 1<<20 {
		return fmt.Errorf("memory of %d MiB: use 128 MiB to 1 TiB", s.MemoryMiB)
	}
	if s.CPUs < 1 || s.CPUs > 255 {
		return fmt.Errorf("%d CPUs: use 1 to 255", s.CPUs)
	}
	if s.DiskBytes < 0 || s.DiskBytes > 1<<50 {
		return fmt.Errorf("disk of %d bytes: use at most 1 PiB", s.DiskBytes)
	}
	if err := s.validateBoot(); err != nil {
		return err
	}
	seen := []Forward{}
	for _, f := range s.Forwards {
		if err := f.validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(seen, f.sameHost) {
			return fmt.Errorf("host port %d/%s is forwarded twice", f.HostPort, f.Protocol)
		}
		seen = append(seen, f)
	}
	return nil
}

// validateBoot looks at what the machine boots from.
func (s Settings) validateBoot() error {
	switch {
	case s.DiskImage != "" && s.DiskBytes == 0:
		return errors.New("a machine that boots from a disk image needs a disk")
	case s.DiskImage != "" && s.Cmdline != "":
		return errors.New("the kernel's command line is part of the OS file in a disk image and can't be added to")
	case s.CDROM != "" && s.Cmdline != "":
		return errors.New("the kernel's command line is part of the OS file on a live medium and can't be added to")
	case !s.byFirmware() && s.SecureBoot:
		return errors.New("Secure Boot needs a disk image or a live medium to boot from")
	case !s.byFirmware() && s.TPM:
		return errors.New("a TPM is told what firmware starts: it needs a disk image or a live medium to boot from")
	case s.CDROM != "":
		if _, err := os.Stat(s.CDROM); err != nil {
			return fmt.Errorf("live medium: %w (build it with `wherry build --format iso`)", err)
		}
		return nil
	case s.byFirmware():
		return nil
	}
	for _, name := range []string{"kernel", "initramfs"} {
		if _, err := os.Stat(filepath.Join(s.Image, name)); err != nil {
			return fmt.Errorf("image %s: %w (build it with `wherry build`, or name another with --image)", s.Image, err)
		}
	}
	return nil
}

// byFirmware tells a machine that UEFI firmware boots from a disk or CD, and
// not QEMU from the image's kernel.
func (s Settings) byFirmware() bool { return s.DiskImage != "" || s.CDROM != "" || s.Firmware }

// imageID tells what the machine boots; nothing is known of a disk's contents.
func (s Settings) imageID() string {
	if s.byFirmware() {
		return ""
	}
	return ImageID(s.Image)
}
