// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

func nowStamp() *timestamppb.Timestamp { return timestamppb.Now() }

// List answers from memory alone, newest first.
func (e *Engine) List(_ context.Context, q *wherryv1.ListContainersRequest) ([]*wherryv1.Container, error) {
	all := e.table.all()
	slices.Reverse(all)
	list := make([]*wherryv1.Container, 0, len(all))
	for _, c := range all {
		if c.system != q.GetSystem() {
			continue
		}
		if rec := c.record(); rec.Stage != stageCreating && listed(rec, q) {
			list = append(list, describe(rec))
		}
	}
	return list, nil
}

func listed(rec record, q *wherryv1.ListContainersRequest) bool {
	active := ran(rec.State.Phase) || rec.State.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING
	if !q.GetAll() && !active || !strings.Contains(rec.Name, q.GetNameFilter()) {
		return false
	}
	for k, want := range q.GetLabelFilter() {
		if have, ok := rec.Effective.Labels[k]; !ok || want != "" && have != want {
			return false
		}
	}
	return true
}

// describe shares the record's messages: they are never altered.
func describe(r record) *wherryv1.Container {
	return &wherryv1.Container{Id: r.ID, Name: r.Name, Image: r.Image.Name, ImageDigest: r.Image.Digest, CreatedAt: timestamppb.New(r.CreatedAt),
		State: r.shown(), Labels: r.Effective.Labels, Ports: r.Ports, Endpoints: r.Endpoints, Mounts: r.Mounts, System: r.System,
		Command: commandForPeople(r.Effective)}
}

// shown is the state as others see it.
func (r record) shown() *wherryv1.ContainerState {
	if !r.Returns || r.State.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING {
		return r.State
	}
	s := proto.CloneOf(r.State)
	s.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING
	return s
}

func commandForPeople(s *wherryv1.ContainerSpec) string {
	return truncate(strings.Join(append(slices.Clone(s.Entrypoint), s.Command...), " "), 512)
}

// Inspect shows everything about one container.
func (e *Engine) Inspect(_ context.Context, ref string) (*wherryv1.InspectContainerResponse, error) {
	c, err := e.table.find(ref, false)
	if err != nil {
		return nil, err
	}
	r := c.record()
	return &wherryv1.InspectContainerResponse{Container: describe(r), Spec: r.Spec, Effective: r.Effective, LogBytes: c.logs.totalBytes()}, nil
}

// Counts is for the machine's status.
func (e *Engine) Counts() *wherryv1.ContainerCounts {
	n := &wherryv1.ContainerCounts{}
	for _, c := range e.table.all() {
		if c.system {
			continue
		}
		s := c.record().shown()
		switch {
		case ran(s.Phase):
			n.Running++
		case s.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING:
			n.Starting++
		default:
			n.Stopped++
		}
		if s.Health == wherryv1.HealthState_HEALTH_STATE_UNHEALTHY {
			n.Unhealthy++
		}
	}
	return n
}

// VolumeUsers lists the names of the containers that mount each volume.
func (e *Engine) VolumeUsers() map[string][]string {
	users := map[string][]string{}
	for _, c := range e.table.all() {
		r := c.record()
		for _, m := range r.Mounts {
			if m.Kind == wherryv1.Mount_KIND_VOLUME {
				users[m.Source] = append(users[m.Source], r.Name)
			}
		}
	}
	return users
}
