// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	_ "embed" // the probe's code
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"wherry.example/wherry/internal/atomicfile"
)

// binary is the program that emulates the only architecture built so far.
const binary = "qemu-system-x86_64"

// findBinary returns QEMU's path or says how to get it.
func findBinary() (string, error) {
	path, err := exec.LookPath(binary)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: get it with `apt-get install qemu-system-x86`, `dnf install qemu-system-x86` or `brew install qemu`", binary)
	}
	return filepath.Abs(path)
}

// probeLimit is how long the tiny guest may take. It needs milliseconds.
const probeLimit = 3 * time.Second

// Accelerator returns "kvm" or "hvf" where this computer truly runs a guest
// with it, else "tcg". /dev/kvm can exist and yet hang (nested virtualisation,
// containers), so a tiny guest is run. The answer is kept in cacheDir until the
// computer boots again or QEMU changes; an empty cacheDir keeps nothing.
func Accelerator(ctx context.Context, cacheDir string) (string, error) {
	path, err := findBinary()
	if err != nil {
		return "", err
	}
	candidate := acceleratorCandidate()
	if candidate == "" {
		return "tcg", nil
	}
	key := probeKey(path, candidate)
	cache := filepath.Join(cacheDir, "accelerator.json")
	if cacheDir != "" {
		if answer, ok := readProbe(cache, key); ok {
			return answer, nil
		}
	}
	answer := "tcg"
	if err := runProbe(ctx, path, candidate); err == nil {
		answer = candidate
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if cacheDir != "" {
		// The probe is cheap: a cache that cannot be written is no error.
		_ = writeProbe(cache, key, answer)
	}
	return answer, nil
}

// CacheDir is where Accelerator keeps its answer: $XDG_CACHE_HOME/wherry.
func CacheDir() string {
	base := os.Getenv("XDG_CACHE_HOME")
	if filepath.IsAbs(base) {
		return filepath.Join(base, "wherry")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".cache", "wherry")
	}
	return ""
}

func acceleratorCandidate() string {
	if runtime.GOARCH != "amd64" {
		return ""
	}
	if runtime.GOOS == "darwin" {
		return "hvf"
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return ""
	}
	f.Close()
	return "kvm"
}

//go:generate sh probe/generate.sh

//go:embed probe/probe.bin
var probeCode []byte

// probeROM is a firmware of 64 KiB with the probe's code at its start and a
// jump there at the reset vector.
func probeROM() []byte {
	rom := bytes.Repeat([]byte{0xf4}, 64<<10) // hlt
	copy(rom, probeCode)
	copy(rom[len(rom)-16:], []byte{0xea, 0x00, 0x00, 0x00, 0xf0}) // jmp f000:0000
	return rom
}

// probeExit is what the device makes of 0x2a.
const probeExit = 0x2a<<1 | 1

// runProbe runs the tiny guest. Only its own exit code is a success.
func runProbe(ctx context.Context, path, accelerator string) error {
	dir, err := os.MkdirTemp("", "wherry-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "rom")
	if err := os.WriteFile(rom, probeROM(), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-machine", "pc,accel="+accelerator, "-cpu", cpuModel(accelerator), "-m", "16M",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-bios", rom, "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.WaitDelay = time.Second
	return probeResult(cmd.Run())
}

func probeResult(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == probeExit {
		return nil
	}
	return fmt.Errorf("the probe guest did not run: %w", err)
}

// probeKey changes when the answer may.
func probeKey(path, candidate string) string {
	boot := "no boot id"
	if data, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		boot = strings.TrimSpace(string(data))
	}
	changed := ""
	if info, err := os.Stat(path); err == nil {
		changed = info.ModTime().UTC().Format(time.RFC3339Nano)
	}
	return strings.Join([]string{candidate, boot, path, changed, fmt.Sprint(os.Getuid())}, " ")
}

type probeRecord struct {
	Key    string `json:"key"`
	Answer string `json:"answer"`
}

func readProbe(file, key string) (string, bool) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", false
	}
	var r probeRecord
	if err := json.Unmarshal(data, &r); err != nil || r.Key != key {
		return "", false
	}
	return r.Answer, r.Answer != ""
}

// distrust remembers that an accelerator passed the probe and yet did not run a
// machine.
func distrust(accelerator string) error {
	path, err := findBinary()
	if err != nil || CacheDir() == "" {
		return err
	}
	return writeProbe(filepath.Join(CacheDir(), "accelerator.json"), probeKey(path, accelerator), "tcg")
}

func writeProbe(file, key, answer string) error {
	data, err := json.Marshal(probeRecord{Key: key, Answer: answer})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, append(data, '\n'), 0o644)
}
