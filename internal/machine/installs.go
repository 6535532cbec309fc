// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/format/efiload"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/machine/install"
	"wherry.example/wherry/internal/machine/provision"
	"wherry.example/wherry/internal/machine/server"
	"wherry.example/wherry/internal/machine/storage"
)

// newInstaller joins the installer to the state, of which it makes another, and
// to the firmware's boot entries.
func (p *parts) newInstaller() *install.Installer {
	return install.New(install.Options{
		Log: p.Log, Load: p.modules.Load, Version: p.Version, Edition: edition("/etc/os-release"),
		StateDisk: p.storage.Disk, State: storage.Maker{Load: p.modules.Load}, StartFrom: func(boot efiload.Partition) error { return p.slots.StartFrom(boot) }, // the slots come later
	})
}

// sources are where a configuration can come from, beside the state.
func (p *parts) sources() []provision.Source {
	sources := []provision.Source{provision.FwCfg(p.modules.Load)}
	if p.storage.Medium() == "" {
		return sources
	}
	return append(sources, provision.Source{Name: "live medium", Read: func(context.Context) ([]byte, error) {
		return p.installer.Config(config.MaxBytes)
	}})
}

// installs answers the API.
type installs struct{ *parts }

func (p installs) InstallDisks(context.Context) (*wherryv1.ListDisksResponse, error) {
	disks, err := p.installer.Disks()
	if err != nil {
		return nil, err
	}
	res := &wherryv1.ListDisksResponse{Medium: p.storage.Medium()}
	for _, d := range disks {
		res.Disks = append(res.Disks, &wherryv1.InstallDisk{
			Name: d.Name, Path: d.Path, Bytes: uint64(d.Bytes), Model: d.Model, Serial: d.Serial, Removable: d.Removable, ReadOnly: d.ReadOnly,
			Content: d.Content, Partitions: d.Partitions, Usable: d.Usable, NeedsWipe: d.NeedsWipe, Reason: d.Reason,
		})
	}
	return res, nil
}

// Install goes on when the caller is gone.
func (p installs) Install(ctx context.Context, req *wherryv1.InstallRequest, send func(*wherryv1.InstallResponse) error) error {
	m, _ := p.config.Current()
	if req.Document != "" {
		var report config.Report
		current := m
		if m, report = config.Parse([]byte(req.Document)); report.OK() {
			m, report = m.Reveal(current)
		}
		if err := report.Err(); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage("the configuration of the new machine:\n" + err.Error())
		}
	}
	last := time.Time{}
	step := func(text string, done, total int64) {
		if now := time.Now(); done == 0 || done >= total || now.Sub(last) > 200*time.Millisecond {
			last = now
			_ = send(&wherryv1.InstallResponse{Step: text, Done: uint64(done), Total: uint64(total)})
		}
	}
	res, err := p.install(context.WithoutCancel(ctx), install.Request{Disk: req.Disk, Wipe: req.Wipe}, m, req.NewKey, step)
	if err != nil {
		return err
	}
	return send(&wherryv1.InstallResponse{Step: "installed", Result: res})
}

// install gives the new disk's state the configuration and, where this machine
// would lose it, the key: whoever knows the live machine knows the installed one.
// A key that lies on a disk stays the key of the machine of that disk.
func (p *parts) install(ctx context.Context, r install.Request, m config.Machine, newKey bool, step func(string, int64, int64)) (*wherryv1.InstallResult, error) {
	m.Install = config.Install{}
	document, err := m.Marshal()
	if err != nil {
		return nil, err
	}
	r.Files = map[string][]byte{filepath.Join("machine", provision.StoredName): document}
	out := &wherryv1.InstallResult{Version: p.Version, KeyKept: !newKey && !p.storage.Persistent()}
	if out.KeyKept {
		key, err := os.ReadFile(filepath.Join(stateDir, machineKey))
		if err != nil {
			return nil, fmt.Errorf("take the machine's key along: %w", err)
		}
		r.Files[machineKey] = key
		out.Fingerprint = p.server.Fingerprint()
	}
	res, err := p.installer.Install(ctx, r, step)
	if refused := install.Refused(""); errors.As(err, &refused) {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(refused.Error())
	}
	if err != nil {
		return nil, err
	}
	out.Disk, out.Warnings = res.Disk, res.Warnings
	if len(m.Access.Keys) == 0 {
		out.Warnings = append(out.Warnings, "nobody can log in to the installed machine: its configuration has no access keys")
	}
	return out, nil
}

// boardInstall is the unattended installation's name on the board.
const boardInstall = "install"

// startInstall installs the machine by itself where its configuration says so
// and it was started from a live medium.
func (p *parts) startInstall(ctx context.Context) {
	m, _ := p.config.Current()
	if p.storage.Medium() == "" || m.Install.Disk == "" {
		return
	}
	p.work.Go(func() {
		if err := p.installItself(ctx, m); err != nil {
			p.Log.Error("the machine could not install itself", "error", err)
			p.board.Set(boardInstall, false, err.Error())
		}
	})
}

// installItself does it once: a disk that this document was installed onto says so.
func (p *parts) installItself(ctx context.Context, m config.Machine) error {
	identity, err := p.installIdentity(m)
	if err != nil {
		return err
	}
	select {
	case <-settled(ctx): // disks may appear until then
	case <-ctx.Done():
		return ctx.Err()
	}
	disks, err := p.installer.Disks()
	if err != nil {
		return err
	}
	for _, d := range disks {
		if d.Identity == identity.String() {
			p.board.Set(boardInstall, true, d.Name+" was installed by this configuration already: take the live medium out and restart")
			p.console.Step("install", d.Name+" is installed already")
			return nil
		}
	}
	said := ""
	step := func(text string, _, _ int64) {
		if text != said {
			said = text
			p.console.Step("install", text)
			p.board.Set(boardInstall, true, text)
		}
	}
	res, err := p.install(ctx, install.Request{Disk: m.Install.Disk, Wipe: m.Install.Wipe, Identity: identity}, m, false, step)
	if err != nil {
		return err
	}
	p.board.Set(boardInstall, true, "installed onto "+res.Disk+": take the live medium out and restart")
	p.console.Step("install", "finished: "+res.Disk)
	if m.Install.Reboot {
		return answers{p}.askInit("restart into the installed system", syscall.SIGTERM)
	}
	return nil
}

// installIdentity tells this release and document from others.
func (p *parts) installIdentity(m config.Machine) (gpt.GUID, error) {
	document, err := m.Marshal()
	if err != nil {
		return gpt.GUID{}, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "wherry installed %s %s", p.Version, document))
	return gpt.RandomGUID([16]byte(sum[:16])), nil
}

var _ server.Install = installs{}
