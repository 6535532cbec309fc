// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/engine"
	"wherry.example/wherry/internal/machine/server"
	"wherry.example/wherry/internal/machine/trial"
)

// newTrial lets a trial see the network, state, the engine and the API.
func (p *parts) newTrial() (*trial.Trial, error) {
	return trial.New(trial.Options{
		Log:         p.Log,
		Links:       func() []*wherryv1.Link { return p.network.State().Links },
		Containers:  p.trialContainers,
		State:       p.storage.State,
		StateDir:    stateDir,
		API:         net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port)),
		Fingerprint: p.server.Fingerprint,
		Exec:        p.trialExec,
		Checks: func() []config.TrialCheck {
			m, _ := p.config.Current()
			return m.Updates.Trial.Checks
		},
	})
}

// trialContainers are the containers of both namespaces.
func (p *parts) trialContainers(ctx context.Context) ([]trial.Container, error) {
	system, err := p.engine.List(ctx, &wherryv1.ListContainersRequest{All: true, System: true})
	if err != nil {
		return nil, err
	}
	users, err := p.engine.List(ctx, &wherryv1.ListContainersRequest{All: true})
	if err != nil {
		return nil, err
	}
	var out []trial.Container
	for _, c := range system { // these are always started again
		out = append(out, trial.Container{ID: c.Id, Name: c.Name, System: true, Returns: true, State: c.State})
	}
	for _, c := range users {
		i, err := p.engine.Inspect(ctx, c.Id)
		if engine.KindOf(err) == engine.KindNotFound {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name, err)
		}
		kind := i.Spec.GetRestart().GetKind()
		out = append(out, trial.Container{
			ID: c.Id, Name: c.Name, State: i.Container.State,
			Returns:   !i.Spec.GetAutoRemove() && kind != wherryv1.RestartPolicy_KIND_NO,
			OnFailure: kind == wherryv1.RestartPolicy_KIND_ON_FAILURE,
		})
	}
	return out, nil
}

// trialExec runs a check's command in a container of the users.
func (p *parts) trialExec(ctx context.Context, container string, command []string, output func([]byte)) (int, error) {
	code := 0
	o := engine.ExecOptions{Start: &wherryv1.ExecStart{Container: container, Command: command}}
	err := p.engine.Exec(ctx, o, func(m *wherryv1.ExecResponse) error {
		switch m := m.Message.(type) {
		case *wherryv1.ExecResponse_Stdout:
			output(m.Stdout)
		case *wherryv1.ExecResponse_Stderr:
			output(m.Stderr)
		case *wherryv1.ExecResponse_ExitCode:
			code = int(m.ExitCode)
		}
		return nil
	})
	return code, err
}
