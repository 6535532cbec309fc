// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/bootslots"
	"wherry.example/wherry/internal/machine/rebuild"
	"wherry.example/wherry/internal/machine/trial"
	"wherry.example/wherry/internal/machine/update"
	"wherry.example/wherry/release"
)

// newUpdates joins the state machine of updates to the boot partition and to the trial.
func (p *parts) newUpdates() *update.Updater {
	p.slots = bootslots.Open(bootslots.Options{Log: p.Log, Load: p.modules.Load})
	return update.New(update.Options{
		Log: p.Log, Board: p.board, Dir: filepath.Join(stateDir, "update"), RunDir: runDir, Persistent: p.storage.Persistent(),
		Version: p.Version, Edition: edition("/etc/os-release"), Arch: runtime.GOARCH, RootFile: release.RootFile,
		Slots: slots{p.slots, p.storage.Medium()}, Trial: judge{p}, Verified: p.verifiedBoot, Died: p.died,
		Deltas:   deltas{p.slots, rebuild.New(rebuild.Options{Log: p.Log, Dir: filepath.Join(stateDir, "update", "rebuild")})},
		Reboot:   func() error { return answers{p}.askInit("restart for an update", syscall.SIGTERM) },
		ClockSet: func() bool { set, _ := p.clock.Status(); return set },
		Event:    p.updateEvent, Console: p.console.Step,
		Sticks: p.lookAtSticks,
	})
}

// startUpdates lets updates go on when the machine is ready, since a trial asks the API.
func (p *parts) startUpdates(ctx context.Context) error {
	var err error
	if p.trial, err = p.newTrial(); err != nil {
		return fmt.Errorf("updates: %w", err)
	}
	p.follow(ctx, func(m config.Machine) { p.updates.Configure(m.Updates) })
	p.work.Go(func() { p.updates.Run(ctx) })
	p.work.Go(func() {
		<-ctx.Done()
		p.closeUpdates(context.WithoutCancel(ctx))
	})
	return nil
}

// lookAtSticks looks at USB sticks when their drivers are there.
func (p *parts) lookAtSticks(ctx context.Context, use func(file string), wrong func(error)) error {
	<-settled(ctx)
	return update.Sticks{Dir: filepath.Join(runDir, "stick"), Load: p.modules.Load}.Look(ctx, use, wrong)
}

// updateGrace is how long a write to the boot partition may hold the shutdown up.
const updateGrace = 30 * time.Second

func (p *parts) closeUpdates(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, updateGrace)
	defer cancel()
	p.updates.Close(ctx)
}

func (p *parts) updateEvent(action, version, message string) {
	if e := p.events.Load(); e != nil {
		event := &wherryv1.Event{Time: timestamppb.Now(), Kind: "update", Action: action, Id: version, Name: version}
		if message != "" {
			event.Attributes = map[string]string{"message": message}
		}
		e.Publish(event)
	}
}

// edition is the image's, from os-release(5).
func edition(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "VARIANT_ID="); ok {
			return v
		}
	}
	return ""
}

func (p *parts) verifiedBoot() *wherryv1.UpdateTrust {
	v, err := p.slots.VerifiedBoot()
	if err != nil {
		p.note("how this boot was verified", err)
		return nil
	}
	return &wherryv1.UpdateTrust{SecureBoot: v.SecureBoot, SetupMode: v.SetupMode, SignedBy: v.SignedBy, Fingerprint: v.Fingerprint}
}

// slots are the boot partition's as updates see them.
type slots struct {
	*bootslots.Slots
	medium string // the live medium that the machine was started from; empty: none
}

func (s slots) Supported() error {
	if s.medium != "" {
		return errors.New("it runs from " + onMedium(s.medium))
	}
	return s.Slots.Supported()
}

func (s slots) Running() (update.Slot, error) {
	slot, err := s.Slots.Running()
	return update.Slot(slot), err
}

func (s slots) List() ([]update.Slot, error) {
	all, err := s.Slots.List()
	var out []update.Slot
	for _, slot := range all {
		out = append(out, update.Slot(slot))
	}
	return out, err
}

func (s slots) Stage(ctx context.Context, version string, src *os.File, progress func(done, total int64)) error {
	err := s.Slots.Stage(ctx, version, src, progress)
	if errors.Is(err, bootslots.ErrNoRoom) {
		return fmt.Errorf("%w: %w", update.ErrNoRoom, err)
	}
	return err
}

func (s slots) Check(ctx context.Context, version, sha256 string) error {
	var sum [32]byte
	if n, err := hex.Decode(sum[:], []byte(sha256)); err != nil || n != len(sum) {
		return fmt.Errorf("%.80q is no SHA-256", sha256)
	}
	return s.Slots.Check(ctx, version, sum)
}

func (s slots) Remove(version string) error {
	if err := s.Slots.Remove(version); !errors.Is(err, bootslots.ErrNotFound) {
		return err
	}
	return nil
}

// deltas are made of the running OS file.
type deltas struct {
	slots     *bootslots.Slots
	rebuilder *rebuild.Rebuilder
}

func (d deltas) Find(to release.Release, from release.Version) (release.File, bool) {
	found, ok := to.Delta(release.OSFile, from)
	return found.File, ok
}

func (d deltas) Rebuild(ctx context.Context, from update.Slot, delta, dst *os.File, progress func(done, total int64)) error {
	return d.rebuilder.Rebuild(ctx, func(use func(*os.File) error) error { return d.slots.Read(from.Version, use) }, delta, dst, progress)
}

// judge is the trial as updates see it. It is there when the API is.
type judge struct{ *parts }

func (j judge) Baseline(ctx context.Context) (json.RawMessage, error) { return j.trial.Baseline(ctx) }

func (j judge) Wait(ctx context.Context, baseline json.RawMessage, limit time.Duration, progress func(update.Health)) error {
	return j.trial.Wait(ctx, baseline, limit, told(progress))
}

func (j judge) Return(ctx context.Context, baseline json.RawMessage, limit time.Duration, progress func(update.Health)) error {
	return j.trial.Return(ctx, baseline, limit, told(progress))
}

// told passes a trial's reports on.
func told(progress func(update.Health)) func(trial.Report) {
	return func(r trial.Report) {
		h := update.Health{Held: r.Held, Needed: r.Needed, Working: r.Working}
		for _, c := range r.Results {
			h.Checks = append(h.Checks, update.Check(c))
		}
		progress(h)
	}
}
