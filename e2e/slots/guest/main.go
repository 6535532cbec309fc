// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command guest is PID 1 of the slots tests' machine: Wherry's kernel and modules
// with nothing but package bootslots above them. It reads a script, one command in a
// line, that the test hands over as the machine's configuration. Each line begins
// with the slots at which it is meant, as text writes them; so one script
// can go through several restarts. When no line is left it says that it is ready.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/linux/efivar"
	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/power"
	"wherry.example/wherry/internal/linux/watchdog"
	"wherry.example/wherry/internal/machine/bootslots"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Printf("guest: failed: %v\n", err)
		time.Sleep(100 * time.Millisecond) // until the console has shown it
	}
	fmt.Println(power.Off.Do())
}

func run(console io.Writer) error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	modules, err := module.Open("/modules")
	if err != nil {
		return err
	}
	if err := modules.Load("virtio_blk", "qemu_fw_cfg", "efivarfs"); err != nil {
		return err
	}
	g := guest{modules: modules, slots: bootslots.Open(bootslots.Options{Log: slog.New(slog.NewTextHandler(console, nil)), Load: modules.Load})}
	here, err := g.text()
	fmt.Fprintf(console, "guest: at %s %s\n", here, outcome(err))
	script, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/opt/wherry/config/raw")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(script)) {
		words := strings.Fields(line)
		if words[0] != here {
			continue
		}
		fmt.Fprintf(console, "guest: %s: %s\n", strings.TrimSpace(line), outcome(g.do(words[1:])))
	}
	fmt.Fprintf(console, "wherry: ready name=guest api=:9473 key=SHA256:%043d version=0 state=memory\n", 0)
	time.Sleep(time.Hour)
	return nil
}

type guest struct {
	modules *module.Loader
	slots   *bootslots.Slots
}

// text shows all slots in a word: "2.0.0+2-1*,1.0.0", with a star at the running one.
func (g guest) text() (string, error) {
	all, err := g.slots.List()
	var out []string
	for _, s := range all {
		name := strings.TrimSuffix(strings.TrimPrefix(s.File, "wherry_"), ".efi")
		if s.Running {
			name += "*"
		}
		out = append(out, name)
	}
	return strings.Join(out, ","), err
}

func outcome(err error) string {
	if err != nil {
		return "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return "ok"
}

// do runs one command.
func (g guest) do(words []string) error {
	version := words[len(words)-1]
	switch words[0] {
	case "stage":
		return g.stage(version)
	case "bless":
		return g.slots.Bless()
	case "retire":
		return g.slots.Retire(version)
	case "remove":
		return g.slots.Remove(version)
	case "choose": // as the loader's menu does it
		return efivar.Variables{}.Write(efivar.Name{Name: "LoaderEntryDefault", Vendor: efivar.Loader}, efitext.Encode(version))
	case "hang": // until the hardware's watchdog has had enough
		if err := g.modules.Load("i6300esb"); err != nil {
			return err
		}
		_, err := watchdog.Open("watchdog0", 2*time.Second)
		if err == nil {
			time.Sleep(time.Minute)
		}
		return errors.Join(errors.New("nothing has reset the machine"), err)
	case "reboot":
		time.Sleep(50 * time.Millisecond) // until the console has shown what was said
		return power.Restart.Do()
	}
	return fmt.Errorf("what is %q?", words)
}

// stage takes the OS file off the second disk and puts its version where this one's is.
func (g guest) stage(version string) error {
	data, err := os.ReadFile("/dev/vdb")
	if err != nil {
		return err
	}
	data = bytes.ReplaceAll(data, []byte("0.0.7777"), []byte(fmt.Sprintf("%-8s", version)))
	f, err := os.Create("/file")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return g.slots.Stage(context.Background(), version, f, nil)
}
