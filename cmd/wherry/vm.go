// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/host/qemu"
)

// newVMCommand builds `wherry vm`: virtual machines on this computer.
func newVMCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "Run Wherry in virtual machines on this computer",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newVMStartCommand(), newVMListCommand(), newVMStopCommand(), newVMRemoveCommand(), newVMConsoleCommand())
	return cmd
}

// vmStartFlags are what was said on the command line; what was not said stays as remembered.
type vmStartFlags struct {
	image, memory, disk, configFile, cmdline string
	cpus                                     int
	ports, extraDisks                        []string
	timeout                                  time.Duration
}

func newVMStartCommand() *cobra.Command {
	var f vmStartFlags
	cmd := &cobra.Command{
		Use:   "start NAME",
		Short: "Start a virtual machine and wait until it is ready",
		Long: `Start a virtual machine and wait until its API is ready. The first start makes
the machine; later ones remember what it was made with, except where a flag says
otherwise.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVMStart(cmd, args[0], f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.image, "image", "build/core-amd64", "directory with the image's kernel and initramfs")
	flags.StringVar(&f.memory, "memory", "1G", "memory")
	flags.IntVar(&f.cpus, "cpus", qemu.DefaultCPUs, "virtual CPUs")
	flags.StringVar(&f.disk, "disk", "10G", `size of the state disk (takes space as it fills), or "none"`)
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
		fmt.Fprintf(cmd.ErrOrStderr(), "machine %s is running already, for %s; its API: %s\n", name, units.HumanDuration(time.Since(info.Run.StartedAt)), info.API)
		return rememberVM(name, info.API, info.Run.Ready.Fingerprint)
	}
	if err := f.apply(&info.Settings, cmd.Flags().Changed); err != nil {
		return err
	}
	document, err := f.document(cmd.Context(), name)
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

// document is the configuration that the machine is handed: the user's, with
// the keys that let the user in, and the machine's name.
func (f vmStartFlags) document(ctx context.Context, name string) ([]byte, error) {
	var user []byte
	if f.configFile != "" {
		data, err := os.ReadFile(f.configFile)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		user = data
	}
	keys, err := vmPublicKeys(ctx)
	if err != nil {
		return nil, err
	}
	return vmConfig(name, user, keys)
}

// vmConfig adds to a configuration document what `wherry vm` gives every
// machine: a name where it has none, and the keys as admins.
func vmConfig(name string, userConfig []byte, publicKeys []string) ([]byte, error) {
	m := config.Machine{Version: config.Version}
	if len(userConfig) > config.MaxBytes {
		return nil, fmt.Errorf("the configuration is longer than %d bytes", config.MaxBytes)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(userConfig))
	decoder.KnownFields(true)
	if err := decoder.Decode(&m); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the configuration: %w", err)
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
	return yaml.Marshal(m)
}

// keyMaterial is an authorized_keys line without its comment.
func keyMaterial(line string) string {
	fields := strings.Fields(line)
	return strings.Join(fields[:min(2, len(fields))], " ")
}

func newVMListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List virtual machines",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			infos, err := vmInfos()
			if err != nil {
				return err
			}
			return printVMs(cmd.OutOrStdout(), infos, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func vmInfos() ([]qemu.Info, error) {
	store, err := qemu.DefaultStore()
	if err != nil {
		return nil, err
	}
	vms, err := store.List()
	if err != nil {
		return nil, err
	}
	infos := []qemu.Info{}
	for _, vm := range vms {
		info, err := vm.Info()
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func printVMs(w io.Writer, infos []qemu.Info, output string) error {
	switch output {
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(infos)
	case "table":
	default:
		return fmt.Errorf("output %q: use table or json", output)
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATUS\tAPI\tMEMORY\tCPUS\tDISK\tPORTS")
	for _, i := range infos {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", i.Name, vmStatus(i), i.API,
			units.BytesSize(float64(i.Settings.MemoryMiB)*(1<<20)), i.Settings.CPUs, vmDisk(i), vmPorts(i))
	}
	return table.Flush()
}

func vmStatus(i qemu.Info) string {
	switch {
	case i.Ready:
		return "Up " + units.HumanDuration(time.Since(i.Run.StartedAt))
	case i.Running:
		return "Starting"
	}
	return "Stopped"
}

func vmDisk(i qemu.Info) string {
	if i.Settings.DiskBytes == 0 {
		return "none"
	}
	return units.BytesSize(float64(i.Settings.DiskBytes))
}

func vmPorts(i qemu.Info) string {
	var ports []string
	for _, f := range i.Settings.Forwards {
		ports = append(ports, f.String())
	}
	return strings.Join(ports, ", ")
}

func newVMStopCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME...",
		Short: "Switch virtual machines off; their containers are stopped in order",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return eachVM(names, func(vm *qemu.VM) error {
				return stopVM(cmd.Context(), cmd.ErrOrStderr(), vm, timeout)
			})
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long the machine may take before its power is cut (default 1m40s)")
	return cmd
}

func stopVM(ctx context.Context, w io.Writer, vm *qemu.VM, timeout time.Duration) error {
	began := time.Now()
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
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return eachVM(names, func(vm *qemu.VM) error {
				if err := vm.Remove(force); err != nil {
					return err
				}
				return forgetVM(vm.Name())
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
		Args:  cobra.ExactArgs(1),
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
