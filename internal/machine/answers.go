// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/engine"
	"wherry.example/wherry/internal/machine/server"
)

// answers is the machine as the API asks it: each answer comes from the
// subsystem that knows.
type answers struct{ *parts }

// Status is the machine at a glance.
func (p answers) Status(context.Context) (*wherryv1.GetStatusResponse, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("ask the kernel its name: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("ask the kernel its state: %w", err)
	}
	memory, err := readMemory("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	disks, err := p.storage.Disks()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	net := p.network.State()
	synchronised, source := p.clock.Status()
	r := &wherryv1.GetStatusResponse{
		Name: p.name(net), Version: p.Version, Kernel: unix.ByteSliceToString(uts.Release[:]), Architecture: runtime.GOARCH,
		BootedAt: timestamppb.New(now.Add(-time.Duration(info.Uptime) * time.Second)), Now: timestamppb.New(now),
		Memory: memory, Disks: disks, State: p.storage.State(), Links: net.Links,
		Containers: p.engine.Counts(), Fingerprint: p.server.Fingerprint(),
		Cpus: uint32(runtime.NumCPU()), Load1: float64(info.Loads[0]) / (1 << unix.SI_LOAD_SHIFT),
		TimeSynchronised: synchronised, TimeSource: source, Boot: p.boot(),
	}
	for _, n := range net.Nameservers {
		r.Nameservers = append(r.Nameservers, n.Addr().String())
	}
	for _, s := range p.board.List() {
		r.Subsystems = append(r.Subsystems, &wherryv1.Subsystem{Name: s.Name, Ready: s.Ready, Message: s.Message, Since: timestamppb.New(s.Since)})
	}
	return r, nil
}

func readMemory(path string) (*wherryv1.Memory, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the memory's state: %w", err)
	}
	defer f.Close()
	return parseMemory(f)
}

// parseMemory reads proc_meminfo(5), whose values are in KiB.
func parseMemory(r io.Reader) (*wherryv1.Memory, error) {
	var m wherryv1.Memory
	for s := bufio.NewScanner(r); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(f[1], 10, 54)
		switch {
		case f[0] == "MemTotal:" && err == nil:
			m.TotalBytes = kib << 10
		case f[0] == "MemAvailable:" && err == nil:
			m.AvailableBytes = kib << 10
		}
	}
	if m.TotalBytes == 0 {
		return nil, fmt.Errorf("the kernel did not say how much memory there is")
	}
	return &m, nil
}

// Config is the configuration in use, without secrets.
func (p answers) Config(context.Context) (*wherryv1.GetConfigResponse, error) {
	doc, source, err := p.config.Document()
	if err != nil {
		return nil, err
	}
	return &wherryv1.GetConfigResponse{Document: string(doc), Source: source}, nil
}

// ApplyConfig makes the machine follow a document, unless something in it is wrong.
func (p answers) ApplyConfig(_ context.Context, document string, dryRun bool) (*wherryv1.ApplyConfigResponse, error) {
	applied, err := p.config.Apply([]byte(document), dryRun)
	if err != nil {
		return nil, err
	}
	if err := applied.Report.Err(); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the configuration was not applied:\n" + err.Error())
	}
	r := &wherryv1.ApplyConfigResponse{}
	for _, c := range applied.Changes {
		r.Changes = append(r.Changes, &wherryv1.ConfigChange{Path: c.Path, Before: c.Before, After: c.After})
	}
	r.Problems = problems(applied.Report)
	return r, nil
}

func problems(r config.Report) []*wherryv1.ConfigProblem {
	var out []*wherryv1.ConfigProblem
	for _, x := range r.Problems {
		out = append(out, &wherryv1.ConfigProblem{Path: x.Path, Message: x.Message, Line: uint32(x.Line)})
	}
	return out
}

// Log is wherryd's log or the kernel's.
func (p answers) Log(ctx context.Context, req *wherryv1.StreamLogRequest, send func(*wherryv1.LogLine) error) error {
	return p.Ring.Stream(ctx, req, send)
}

// replyDelay lets the answer to the caller out before PID 1 begins.
const replyDelay = 200 * time.Millisecond

// Reboot and PowerOff ask PID 1, by its signals.
func (p answers) Reboot(context.Context) error   { return p.askInit("reboot", syscall.SIGTERM) }
func (p answers) PowerOff(context.Context) error { return p.askInit("power off", syscall.SIGUSR2) }

func (p answers) askInit(what string, s syscall.Signal) error {
	p.parts.Log.Info("asked to "+what, "by", "API")
	time.AfterFunc(replyDelay, func() { p.note(what, syscall.Kill(1, s)) })
	return nil
}

// containers is the engine as the server sees it: the option types are the
// server's own.
type containers struct{ *engine.Engine }

func (c containers) Attach(ctx context.Context, o server.AttachOptions, send func(*wherryv1.AttachResponse) error) error {
	return c.Engine.Attach(ctx, engine.AttachOptions(o), send)
}

func (c containers) Exec(ctx context.Context, o server.ExecOptions, send func(*wherryv1.ExecResponse) error) error {
	return c.Engine.Exec(ctx, engine.ExecOptions(o), send)
}
