// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/host/qemu"
)

// newVMCommand builds `wherry vm`: virtual machines on this computer.
func newVMCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Run Wherry in virtual machines on this computer",
	}
	cmd.AddCommand(newVMStartCommand(), newVMListCommand(), newVMStopCommand(), newVMRemoveCommand(), newVMConsoleCommand())
	return cmd
}

// vmStartFlags are what was said on the command line; what was not said stays as remembered.
type vmStartFlags struct {
	image, diskImage, cdrom, memory, disk, configFile, cmdline string
	secureBoot, pc, tpm                                        bool
	cpus                                                       int
	ports, extraDisks                                          []string
	timeout                                                    time.Duration
}

func newVMStartCommand() *cobra.Command {
	var f vmStartFlags
	cmd := &cobra.Command{
		Use:   "start NAME",
		Short: "Start a virtual machine and wait until it is ready",
		Long: `Start a virtual machine and wait until its API is ready. The first start makes
the machine; later ones remember what it was made with, except where a flag says
otherwise.`,
		Example: "  wherry vm start demo\n  wherry vm start big --memory 4g --cpus 4 --disk 100g\n  wherry vm start live --cdrom build/core-amd64/wherry.iso\n  wherry vm start shown -p 0.0.0.0:8080:80     also for other computers",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeVMs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVMStart(cmd, args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.image, "image", "build/core-amd64", "directory with the image's kernel and initramfs")
	flags.StringVar(&f.memory, "memory", "1G", "memory")
	flags.IntVar(&f.cpus, "cpus", qemu.DefaultCPUs, "virtual CPUs")
	flags.StringVar(&f.disk, "disk", "10G", `size of the state disk (takes space as it fills), or "none"`)
	flags.StringVar(&f.diskImage, "disk-image", "", "boot by UEFI firmware from a disk that begins as a copy of this file (raw, qcow2, vhd or vmdk)")
	flags.StringVar(&f.cdrom, "cdrom", "", `boot by UEFI firmware from this live medium (iso), or "none" to take it out and boot from the disk`)
	flags.BoolVar(&f.secureBoot, "secure-boot", false, "with --disk-image or --cdrom: firmware that can check signatures")
	flags.BoolVar(&f.pc, "pc", false, "SATA disks and an Intel network adapter instead of virtio (needs an image of --kernel metal)")
	flags.BoolVar(&f.tpm, "tpm", false, "with --disk-image: a TPM 2.0, for 'wherry machine attest' (needs swtpm)")
	flags.StringArrayVar(&f.extraDisks, "extra-disk", nil, "attach a raw disk image too (repeat for more)")
	flags.StringArrayVarP(&f.ports, "publish", "p", nil, "forward [address:]hostPort:machinePort[/udp] (repeat for more)")
	flags.StringVar(&f.configFile, "config", "", "machine configuration (YAML); your key is added to it")
	flags.StringVar(&f.cmdline, "cmdline", "", "add to the kernel's command line")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long to wait for the machine (default 6m)")
	return cmd
}

func runVMStart(cmd *cobra.Command, name string, f vmStartFlags) error {
	store, err := qemu.DefaultStore()
	if err != nil {
		return err
	}
	vm, err := store.Create(name)
	if err != nil {
		return err
	}
	info, err := vm.Info()
	if err != nil {
		return err
	}
	if info.Ready {
		return f.alreadyRunning(cmd, vm, info)
	}
	if err := f.apply(&info.Settings, cmd.Flags().Changed); err != nil {
		return err
	}
	document, err := f.document(cmd.Context(), vm)
	if err != nil {
		return err
	}
	began := time.Now()
	_, err = vm.Start(cmd.Context(), qemu.StartOptions{
		Settings: info.Settings, Config: document, Timeout: f.timeout, Progress: cmd.ErrOrStderr(),
	})
	if err != nil {
		return err
	}
	if info, err = vm.Info(); err != nil {
		return err
	}
	if err := rememberVM(name, info.API, info.Run.Ready.Fingerprint); err != nil {
		return err
	}
	printStarted(cmd.ErrOrStderr(), info, time.Since(began))
	return nil
}

// alreadyRunning adds the forwards that were asked for; the rest of a running
// machine cannot be changed.
func (f *vmStartFlags) alreadyRunning(cmd *cobra.Command, vm *qemu.VM, info qemu.Info) error {
	w := cmd.ErrOrStderr()
	fmt.Fprintf(w, "machine %s is running already, for %s; its API: %s\n", info.Name, units.HumanDuration(time.Since(info.Run.StartedAt)), info.API)
	if vm.Paused(cmd.Context()) != nil {
		if err := vm.Resume(cmd.Context()); err != nil {
			return err
		}
		fmt.Fprintln(w, "it was paused, because this computer's disk was full, and goes on now")
	}
	forwards, err := parseForwards(f.ports)
	if err != nil {
		return err
	}
	for _, x := range forwards {
		if _, err := vm.Forward(cmd.Context(), x.Protocol, x.HostAddress, x.HostPort, x.GuestPort); err != nil {
			return err
		}
	}
	if now := qemu.ImageID(info.Settings.Image); now != "" && info.Run.ImageID != "" && now != info.Run.ImageID {
		fmt.Fprintf(w, "it runs an image that was built anew since: `wherry vm stop %[1]s && wherry vm start %[1]s` boots the new one\n", info.Name)
	}
	var late []string
	if image, err := filepath.Abs(f.image); cmd.Flags().Changed("image") && (err != nil || image != info.Settings.Image) {
		late = append(late, "--image")
	}
	for _, name := range []string{"disk-image", "cdrom", "secure-boot", "pc", "tpm", "memory", "cpus", "disk", "extra-disk", "config", "cmdline"} {
		if cmd.Flags().Changed(name) {
			late = append(late, "--"+name)
		}
	}
	if len(late) > 0 {
		fmt.Fprintf(w, "warning: %s was left out: stop the machine first (`wherry vm stop %s`)\n", strings.Join(late, ", "), info.Name)
	}
	return rememberVM(info.Name, info.API, info.Run.Ready.Fingerprint)
}

func printStarted(w io.Writer, info qemu.Info, took time.Duration) {
	fmt.Fprintf(w, "machine %s is ready after %.1f s; its API: %s, its key: %s\n", info.Name, took.Seconds(), info.API, info.Run.Ready.Fingerprint)
	for _, f := range info.Settings.Forwards {
		fmt.Fprintf(w, "  %s:%d leads to its port %d/%s\n", f.HostAddress, f.HostPort, f.GuestPort, f.Protocol)
	}
	if info.Run.Ready.State == "memory" {
		fmt.Fprintln(w, "  it has no disk for its state: all it keeps is gone when it is switched off")
	}
}

// apply puts into the settings what was said on the command line.
func (f vmStartFlags) apply(s *qemu.Settings, changed func(string) bool) error {
	if changed("image") || s.Image == "" {
		s.Image = f.image
	}
	if changed("disk-image") {
		s.DiskImage = f.diskImage
	}
	if changed("cdrom") {
		// What is on the disk of a machine that had a CD was not put there by this computer.
		s.CDROM, s.Firmware = f.cdrom, true
		if f.cdrom == "none" {
			s.CDROM = ""
		}
	}
	if changed("secure-boot") {
		s.SecureBoot = f.secureBoot
	}
	if changed("pc") {
		s.PC = f.pc
	}
	if changed("tpm") {
		s.TPM = f.tpm
	}
	if changed("cpus") {
		s.CPUs = f.cpus
	}
	if changed("cmdline") {
		s.Cmdline = f.cmdline
	}
	if changed("extra-disk") {
		s.ExtraDisks = f.extraDisks
	}
	if changed("memory") {
		bytes, err := units.RAMInBytes(f.memory)
		if err != nil {
			return fmt.Errorf("--memory %q: %w", f.memory, err)
		}
		s.MemoryMiB = int(bytes >> 20)
	}
	if changed("disk") {
		bytes, err := parseDiskSize(f.disk)
		if err != nil {
			return err
		}
		s.DiskBytes = bytes
	}
	if changed("publish") {
		forwards, err := parseForwards(f.ports)
		if err != nil {
			return err
		}
		s.Forwards = forwards
	}
	return nil
}

// parseDiskSize reads "10G" or "none".
func parseDiskSize(text string) (int64, error) {
	if text == "none" {
		return 0, nil
	}
	bytes, err := units.RAMInBytes(text)
	if err != nil {
		return 0, fmt.Errorf("--disk %q: %w", text, err)
	}
	if bytes < 128<<20 {
		return 0, fmt.Errorf("--disk %q: a state disk needs at least 128M (or say none)", text)
	}
	return bytes, nil
}

func parseForwards(texts []string) ([]qemu.Forward, error) {
	var forwards []qemu.Forward
	for _, text := range texts {
		f, err := qemu.ParseForward(text)
		if err != nil {
			return nil, err
		}
		forwards = append(forwards, f)
	}
	return forwards, nil
}

// document is the configuration that the machine is handed: the user's, or the
// one that it was handed before, with the keys that let the user in, and the
// machine's name.
func (f vmStartFlags) document(ctx context.Context, vm *qemu.VM) ([]byte, error) {
	source, read := f.configFile, func() ([]byte, error) { return os.ReadFile(f.configFile) }
	if source == "" {
		source, read = "the machine's last configuration", vm.Config
	}
	user, err := read()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	keys, err := vmPublicKeys(ctx)
	if err != nil {
		return nil, err
	}
	document, err := vmConfig(vm.Name(), user, keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return document, nil
}

// vmConfig adds to a configuration document what `wherry vm` gives every
// machine: a name where it has none, and the keys as admins.
func vmConfig(name string, userConfig []byte, publicKeys []string) ([]byte, error) {
	m := config.Default()
	if len(bytes.TrimSpace(userConfig)) > 0 {
		var report config.Report
		if m, report = config.Parse(userConfig); !report.OK() {
			return nil, fmt.Errorf("the configuration is wrong:\n%w", report.Err())
		}
	}
	if m.Name == "" {
		m.Name = name
	}
	for _, key := range publicKeys {
		same := func(k config.Key) bool { return keyMaterial(k.Key) == keyMaterial(key) }
		if !slices.ContainsFunc(m.Access.Keys, same) {
			m.Access.Keys = append(m.Access.Keys, config.Key{Key: key, Role: config.RoleAdmin})
		}
	}
	return m.Marshal()
}

// keyMaterial is an authorized_keys line without its comment.
func keyMaterial(line string) string {
	fields := strings.Fields(line)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

func newVMStopCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME...",
		Short: "Switch virtual machines off; their containers are stopped in order",
		Args:  cobra.MinimumNArgs(1), ValidArgsFunction: completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return eachVM(names, func(vm *qemu.VM) error {
				return stopVM(cmd.Context(), cmd.ErrOrStderr(), vm, timeout)
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long the machine may take before its power is cut (default 1m40s)")
	return cmd
}

// patience is how long a stop is silent.
const patience = 2 * time.Second

func stopVM(ctx context.Context, w io.Writer, vm *qemu.VM, timeout time.Duration) error {
	if _, running := vm.Run(); !running {
		fmt.Fprintf(w, "machine %s does not run\n", vm.Name())
		return nil
	}
	began := time.Now()
	note := time.AfterFunc(patience, func() {
		fmt.Fprintf(w, "machine %s is stopping; each of its containers has 10 s to end, unless it was created with another time\n", vm.Name())
	})
	defer note.Stop()
	clean, err := vm.Stop(ctx, qemu.StopOptions{Timeout: timeout})
	if err != nil {
		return err
	}
	if !clean {
		fmt.Fprintf(w, "machine %s did not switch itself off in time: its power was cut\n", vm.Name())
		return nil
	}
	fmt.Fprintf(w, "machine %s is off after %.1f s\n", vm.Name(), time.Since(began).Seconds())
	return nil
}

func newVMRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove virtual machines with their disks",
		Args:  cobra.MinimumNArgs(1), ValidArgsFunction: completeVMs,
		RunE: func(cmd *cobra.Command, names []string) error {
			return eachVM(names, func(vm *qemu.VM) error {
				if err := vm.Remove(force); err != nil {
					return err
				}
				if err := forgetVM(vm.Name()); err != nil {
					return err
				}
				_, err := fmt.Fprintln(cmd.OutOrStdout(), vm.Name())
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also one that runs: its power is cut")
	return cmd
}

// eachVM acts on all of the machines and returns all of the errors.
func eachVM(names []string, act func(*qemu.VM) error) error {
	store, err := qemu.DefaultStore()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		vm, err := store.Open(name)
		if err == nil {
			err = act(vm)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func newVMConsoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "console NAME",
		Short: "Join a virtual machine's serial console; ctrl-] leaves it",
		Args:  cobra.ExactArgs(1), ValidArgsFunction: completeVMs,
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := qemu.DefaultStore()
			if err != nil {
				return err
			}
			vm, err := store.Open(args[0])
			if err != nil {
				return err
			}
			return attachConsole(cmd.Context(), vm, os.Stdin, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func attachConsole(ctx context.Context, vm *qemu.VM, in *os.File, out, messages io.Writer) error {
	if term.IsTerminal(int(in.Fd())) {
		fmt.Fprintf(messages, "console of %s; ctrl-] leaves it\n", vm.Name())
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("prepare the terminal: %w", err)
		}
		defer func() {
			_ = term.Restore(int(in.Fd()), old) // nothing is left to try
			fmt.Fprintln(messages)
		}()
	}
	ctx, detach := context.WithCancel(ctx)
	defer detach()
	return vm.Attach(ctx, &keyWatch{in: in, key: 0x1d, pressed: detach}, out)
}

// keyWatch passes input on until a key is pressed.
type keyWatch struct {
	in      io.Reader
	key     byte
	pressed func()
}

func (k *keyWatch) Read(p []byte) (int, error) {
	n, err := k.in.Read(p)
	if i := bytes.IndexByte(p[:n], k.key); i >= 0 {
		k.pressed()
		return i, io.EOF
	}
	return n, err
}
