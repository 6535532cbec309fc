// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/internal/host/goimage"
	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/host/login"
	"wherry.example/wherry/internal/host/qemu"
)

// app is the flags that every command has, and what is made of them.
type app struct {
	machine, identity, output string
	signals                   *ctl.Signals
	made                      *ctl.CLI
}

func (a *app) register(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVarP(&a.machine, "machine", "m", os.Getenv("WHERRY_MACHINE"), "which machine: a name, or an address")
	flags.StringVar(&a.identity, "identity", os.Getenv("WHERRY_IDENTITY"), "SSH private key to log in with")
	flags.StringVarP(&a.output, "output", "o", "table", "table or json")
	complete(root, "machine", func(string) []string { return machineNames() })
	complete(root, "output", func(string) []string { return []string{"table", "json"} })
}

// complete gives a flag its values.
func complete(cmd *cobra.Command, flag string, values func(prefix string) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return values(prefix), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the flag does not exist: a mistake in this program
	}
}

func (a *app) checkFlags() error {
	if a.output != "table" && a.output != "json" {
		return fmt.Errorf("-o %q: want table or json", a.output)
	}
	return nil
}

// cli returns the verbs, connected to the machine when they first ask.
func (a *app) cli(cmd *cobra.Command) *ctl.CLI {
	if a.made == nil {
		a.made = &ctl.CLI{
			In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr(), JSON: a.output == "json", Signals: a.signals,
			Connect: func(ctx context.Context) (*client.Client, known.Machine, error) {
				return a.connect(ctx, login.Terminal())
			},
			Publish:    publish,
			Unpublish:  unpublish,
			Place:      place,
			BuildLocal: buildLocal,
		}
	}
	return a.made
}

func (a *app) close() {
	if a.made != nil {
		a.made.Close()
	}
}

func (a *app) connect(ctx context.Context, ask login.Asker) (*client.Client, known.Machine, error) {
	o, err := a.login(ask)
	if err != nil {
		return nil, known.Machine{}, err
	}
	store, err := known.Default()
	if err != nil {
		return nil, known.Machine{}, err
	}
	m, err := login.Find(ctx, store, a.machine, ask)
	if err != nil {
		return nil, m, err
	}
	dial, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(slowAnswer, func() {
		// A paused machine takes connections and never answers on them.
		if vm := vmOf(m); vm != nil && vm.Paused(ctx) != nil {
			cancel(qemu.ErrPaused)
		}
	})
	c, err := login.Connect(dial, store, m, o)
	watch.Stop()
	if err != nil {
		cancel(nil)
		err = explainVM(ctx, m, err)
	}
	return c, m, err
}

// slowAnswer is when it is time to ask why a machine does not answer.
const slowAnswer = 2 * time.Second

// explainVM adds what is known of a virtual machine that does not answer.
func explainVM(ctx context.Context, m known.Machine, err error) error {
	store, serr := qemu.DefaultStore()
	if serr != nil {
		return err
	}
	vm, verr := store.Open(m.Name)
	if verr != nil {
		return err
	}
	info, ierr := vm.Info()
	switch {
	case ierr != nil || info.API != m.Address:
		return err
	case !info.Running:
		return fmt.Errorf("machine %s is switched off: start it with `wherry vm start %s`", m.Name, m.Name)
	case vm.Paused(ctx) != nil:
		return fmt.Errorf("%w; then `wherry vm start %s` lets it go on", vm.Paused(ctx), m.Name)
	case !info.Ready:
		return fmt.Errorf("machine %s is starting and does not answer yet: %w", m.Name, err)
	}
	return err
}

func (a *app) login(ask login.Asker) (login.Options, error) {
	o, err := login.Default()
	o.IdentityFile, o.Ask = a.identity, ask
	return o, err
}

// explain adds what docker's users may have meant.
func (a *app) explain(err error) string {
	if _, size := units.RAMInBytes(a.machine); size == nil && errors.Is(err, known.ErrUnknown) {
		return err.Error() + "\n(-m chooses the machine; a memory limit is --memory)"
	}
	return err.Error()
}

// names completes names of objects without asking anybody anything.
func (a *app) names(cmd *cobra.Command, kind, prefix string) []string {
	c := &ctl.CLI{In: cmd.InOrStdin(), Out: io.Discard, Err: io.Discard,
		Connect: func(ctx context.Context) (*client.Client, known.Machine, error) { return a.connect(ctx, nil) }}
	defer c.Close()
	return c.Names(cmd.Context(), kind, prefix)
}

// completes gives a command's arguments names of a kind; only the first one when single.
func (a *app) completes(kind string, single bool) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if single && len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.names(cmd, kind, prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

func machineNames() []string {
	store, err := known.Default()
	if err != nil {
		return nil
	}
	list, _, err := store.List()
	if err != nil {
		return nil
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names
}

func buildLocal(ctx context.Context, dir, architecture string, w io.Writer) (string, error) {
	r, err := goimage.Write(ctx, goimage.Options{Dir: dir, Arch: architecture}, w)
	return r.Name, err
}

// vmOf returns the virtual machine that a known machine is; nil for others.
func vmOf(m known.Machine) *qemu.VM {
	store, err := qemu.DefaultStore()
	if err != nil {
		return nil
	}
	vm, err := store.Open(m.Name)
	if err != nil {
		return nil
	}
	info, err := vm.Info()
	if err != nil || !info.Running || info.API != m.Address {
		return nil
	}
	return vm
}
