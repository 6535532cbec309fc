// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"strings"
	"testing"
)

func TestTPMArguments(t *testing.T) {
	s := Settings{DiskImage: "/disk.raw", DiskBytes: 1 << 30, TPM: true}
	if got := strings.Join(arguments("demo", s, "tcg", false), " "); !strings.Contains(got, "socket,id=tpm,path=tpm.sock") || !strings.Contains(got, "tpm-crb,tpmdev=tpm0") {
		t.Errorf("a TPM: %s", got)
	}
	s.TPM = false
	if got := strings.Join(arguments("demo", s, "tcg", false), " "); strings.Contains(got, "tpm") {
		t.Errorf("no TPM: %s", got)
	}
	if err := (Settings{Image: testImage(t), TPM: true}).validateBoot(); err == nil || !strings.Contains(err.Error(), "disk image") {
		t.Errorf("a TPM without firmware: %v", err)
	}
}

// A TPM that nobody uses any more makes way for the next. (That it ends with
// QEMU is tested with one, in e2e/attest.)
func TestTPMLife(t *testing.T) {
	vm, err := Store{Dir: t.TempDir()}.Create("demo")
	if err != nil {
		t.Fatal(err)
	}
	start := func(before tpmProcess) tpmProcess {
		t.Helper()
		p, err := vm.startTPM(t.Context(), Settings{TPM: true}, before)
		if err != nil {
			t.Fatalf("%v (run tools/setup.sh test)", err)
		}
		t.Cleanup(func() { _ = killProcess(p.PID, p.ProcessStart) })
		return p
	}
	first := start(tpmProcess{})
	second := start(tpmProcess{}) // as after a start that died and left no run.json
	if !waitGone(first.PID, first.ProcessStart, tpmLimit) || !processAlive(second.PID, second.ProcessStart) {
		t.Fatal("the forgotten TPM is still there, or the new one is not")
	}
	third := start(second)
	if processAlive(second.PID, second.ProcessStart) {
		t.Error("the last run's TPM is still there")
	}
	if p, err := vm.startTPM(t.Context(), Settings{}, third); err != nil || p.PID != 0 {
		t.Errorf("a machine without one: %+v, %v", p, err)
	}
}
