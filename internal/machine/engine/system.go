// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// EnsureSystem makes the system containers those of the configuration: missing
// ones are pulled, made and started, changed ones are made anew, others are
// removed. One that cannot be had does not keep the others from running. While
// a registry cannot be reached it tries again, so it may take as long as the
// network does; a newer call ends an older one.
func (e *Engine) EnsureSystem(ctx context.Context, want []config.SystemContainer) error {
	turn := e.systemTurn.Add(1)
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		err := e.ensureOnce(ctx, want, turn)
		if KindOf(err) != KindUnavailable || e.stopping.Load() {
			return err
		}
		e.log.Warn("engine: system containers have to wait", "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		case <-e.life.Done():
			return nil
		}
	}
}

func (e *Engine) ensureOnce(ctx context.Context, want []config.SystemContainer, turn int64) error {
	e.systemMu.Lock()
	defer e.systemMu.Unlock()
	if e.systemTurn.Load() != turn {
		return nil
	}
	wanted := map[string]*wherryv1.ContainerSpec{}
	for _, s := range want {
		wanted[s.Name] = systemSpec(s)
	}
	var errs []error
	for _, c := range e.table.all() {
		rec := c.record()
		if !c.system || proto.Equal(wanted[rec.Name], rec.Spec) {
			continue
		}
		if err := e.remove(ctx, c, removal{force: true, volumes: true}); err != nil {
			errs = append(errs, fmt.Errorf("system container %s: %w", rec.Name, err))
		}
	}
	for _, s := range want {
		if err := e.ensureSystem(ctx, wanted[s.Name]); err != nil {
			errs = append(errs, fmt.Errorf("system container %s: %w", s.Name, err))
		}
	}
	err := errors.Join(errs...)
	if slices.ContainsFunc(errs, func(err error) bool { return KindOf(err) == KindUnavailable }) {
		err = &Error{Kind: KindUnavailable, Err: err} // whatever else is wrong, this may mend itself
	}
	return err
}

func systemSpec(s config.SystemContainer) *wherryv1.ContainerSpec {
	spec := &wherryv1.ContainerSpec{Name: s.Name, Image: s.Image, Entrypoint: s.Entrypoint, Command: s.Command, Env: s.Env,
		Restart: &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ALWAYS}}
	if s.HostNetwork {
		spec.NetworkMode = wherryv1.NetworkMode_NETWORK_MODE_HOST
	}
	return spec
}

func (e *Engine) ensureSystem(ctx context.Context, spec *wherryv1.ContainerSpec) error {
	c, err := e.table.find(spec.Name, true)
	if KindOf(err) == KindNotFound {
		pull := &wherryv1.PullImageRequest{Image: spec.Image, MissingOnly: true}
		if err := e.PullImage(ctx, pull, func(*wherryv1.PullImageResponse) error { return nil }); err != nil {
			return err
		}
		c, err = e.create(ctx, spec, true)
	}
	if err != nil {
		return err
	}
	if c.running() != nil {
		return nil
	}
	return e.start(ctx, c, true)
}
