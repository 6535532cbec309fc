// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Bench measures Wherry and its peers on one QEMU line and writes
// bench/results/latest.json and latest.md.
//
// Instructions are counted by QEMU (-icount, record mode), so they do not
// depend on the load of the computer that measures. Memory is MemTotal −
// MemAvailable of a 512 MB machine. One millisecond of CPU is one million
// instructions. Marks come from a 170-byte program (probe.go) that every
// system runs as its container.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	starts         = 20 // containers started one after the other for the mean
	idleContainers = 10 // idle containers for the memory of one
	// commonCmdline keeps per-CPU page lists small, else memory readings of equal boots differ by 7 MB. The rest
	// is what Wherry's images boot with; the peers get it too, so that only the systems differ.
	commonCmdline = "no_timer_check cryptomgr.notests percpu_alloc=page sysctl.vm.percpu_pagelist_high_fraction=10000 panic=5 random.trust_cpu=on"
)

// figures are what is measured of a system. Zero means not measured.
type figures struct {
	BytesKernel                int64   `json:"bytes_kernel"`
	BytesModules               int64   `json:"bytes_modules,omitempty"`
	BytesInitramfs             int64   `json:"bytes_initramfs"`
	BytesRoot                  int64   `json:"bytes_root,omitempty"`
	InstructionsReady          uint64  `json:"instructions_ready"`
	InstructionsFirstContainer uint64  `json:"instructions_first_container"`
	IdleMB                     float64 `json:"idle_mb"`
	ContainerMB                float64 `json:"container_mb"`
	ContainerStartCPUMS        float64 `json:"container_start_cpu_ms"`
}

type system interface {
	build(ctx context.Context) error
	measure(ctx context.Context, dir string) (figures, error)
}

// results is the file that others read.
type results struct {
	Commit  string             `json:"commit"`
	QEMU    string             `json:"qemu"`
	Time    time.Time          `json:"time"`
	Systems map[string]figures `json:"systems"`
	// Deltas are by what changed: one_line, minor, kernel.
	Deltas map[string]deltaFigures `json:"deltas,omitempty"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	only := flag.String("only", "", "systems or deltas: measure these and leave the others as they are in the results; or one system: print its figures, without writing results")
	image := flag.String("image", "build/core-amd64", "Wherry's build")
	out := flag.String("o", "bench/results", "where results are written")
	flag.Parse()
	if *only == "deltas" {
		return onlyDeltas(*out)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	systems := map[string]system{
		"wherry":            &wherry{image: *image},
		"debian-containerd": &debian{dir: filepath.Join(cache, "wherry", "peers", "debian-bookworm"), suite: "bookworm"},
	}
	r := results{Time: time.Now().UTC().Truncate(time.Second), QEMU: firstLine("qemu-system-x86_64", "--version"), Commit: firstLine("git", "rev-parse", "HEAD"), Systems: map[string]figures{}}
	for name, s := range systems {
		if *only != "" && *only != "systems" && *only != name {
			continue
		}
		f, err := measure(name, s)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.Systems[name] = f
	}
	switch *only {
	case "":
		r.Deltas, err = measureDeltas()
	case "systems":
		var before results
		before, err = readResults(*out)
		r.Deltas = before.Deltas
	default:
		return r.print()
	}
	if err != nil {
		return err
	}
	return r.write(*out)
}

func readResults(out string) (r results, err error) {
	text, err := os.ReadFile(filepath.Join(out, "latest.json"))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the figures that stay: %w", err)
	}
	return r, nil
}

// onlyDeltas measures deltas and leaves the other figures as they are.
func onlyDeltas(out string) error {
	r, err := readResults(out)
	if err != nil {
		return err
	}
	if r.Deltas, err = measureDeltas(); err != nil {
		return err
	}
	return r.write(out)
}

func (r results) print() error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		fmt.Println(string(text))
	}
	return err
}

// write prints the results and writes both files.
func (r results) write(out string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(r.print(), os.MkdirAll(out, 0o755), os.WriteFile(filepath.Join(out, "latest.md"), []byte(table(r)), 0o644)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "latest.json"), append(text, '\n'), 0o644)
}

func measure(name string, s system) (figures, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	fmt.Fprintf(os.Stderr, "%s: preparing\n", name)
	if err := s.build(ctx); err != nil {
		return figures{}, err
	}
	dir, err := os.MkdirTemp("", "wherry-bench")
	if err != nil {
		return figures{}, err
	}
	defer os.RemoveAll(dir)
	fmt.Fprintf(os.Stderr, "%s: measuring\n", name)
	return s.measure(ctx, dir)
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// table is the same for people.
func table(r results) string {
	w, d := r.Systems["wherry"], r.Systems["debian-containerd"]
	var b strings.Builder
	fmt.Fprintf(&b, "# Figures\n\nCommit %s, %s, q35, TCG, one CPU, %d MB. Written by `make bench`.\n\n", r.Commit, r.QEMU, memoryMiB)
	b.WriteString("| | Wherry | Debian + containerd | ratio |\n|---|---:|---:|---:|\n")
	row := func(what string, x, y float64, format string) {
		ratio := "–"
		if y != 0 && x != 0 {
			ratio = fmt.Sprintf("%.2f", x/y)
		}
		cell := func(v float64) string {
			if v == 0 {
				return "–"
			}
			return fmt.Sprintf(format, v)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", what, cell(x), cell(y), ratio)
	}
	row("kernel, MB", float64(w.BytesKernel)/1e6, float64(d.BytesKernel)/1e6, "%.1f")
	row("kernel modules, MB (the peer's are compressed one by one)", float64(w.BytesModules)/1e6, float64(d.BytesModules)/1e6, "%.1f")
	row("initramfs, MB", float64(w.BytesInitramfs)/1e6, float64(d.BytesInitramfs)/1e6, "%.1f")
	row("root, MB (Wherry's is in the initramfs)", float64(w.BytesRoot)/1e6, float64(d.BytesRoot)/1e6, "%.1f")
	row("reset to engine ready, G instructions", float64(w.InstructionsReady)/1e9, float64(d.InstructionsReady)/1e9, "%.2f")
	row("reset to first container, G instructions", float64(w.InstructionsFirstContainer)/1e9, float64(d.InstructionsFirstContainer)/1e9, "%.2f")
	row("idle memory, MB", w.IdleMB, d.IdleMB, "%.1f")
	row("one idle container more, MB", w.ContainerMB, d.ContainerMB, "%.2f")
	row("create, start, exit, delete, CPU ms", w.ContainerStartCPUMS, d.ContainerStartCPUMS, "%.0f")
	return b.String() + deltaTable(r.Deltas)
}
