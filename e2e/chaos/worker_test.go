// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
)

// slots is how many containers a worker has at most at a time.
const slots = 4

// model is what a worker knows of a container. No phase: it is not there.
type model struct {
	id, phase string
}

// worker does random things to containers of its own, one after the other, and
// keeps account. When the machine does not answer it finds out what became of
// the call: it was done, or it was not. Only a forced removal has something
// between: the container has been ended and is still there.
type worker struct {
	t      *testing.T
	api    *client.Client
	number int
	image  string
	random *rand.Rand
	made   int
	names  [slots]string
	all    map[string]*model
	done   map[string]int
}

func newWorker(t *testing.T, g *rig, number int, seed uint64) *worker {
	return &worker{t: t, api: g.Client(g.m), number: number, image: g.image, random: rand.New(rand.NewPCG(seed, uint64(number+1))),
		all: map[string]*model{}, done: map[string]int{}}
}

func (w *worker) run(stop <-chan struct{}) {
	for !w.t.Failed() {
		select {
		case <-stop:
			w.t.Logf("worker %d: %v", w.number, w.done)
			return
		default:
		}
		w.step(w.random.IntN(slots))
	}
}

// step does one thing that the container's phase allows.
func (w *worker) step(slot int) {
	name := w.names[slot]
	m := w.all[name]
	if m == nil || m.phase == "" {
		w.made++
		name = fmt.Sprintf("w%d-%d", w.number, w.made)
		w.names[slot], m = name, &model{}
		w.all[name] = m
	}
	switch {
	case m.phase == "":
		w.create(name, m)
	case m.phase == phaseRunning && w.random.IntN(3) > 0:
		w.do("stop", name, m, phaseExited, func(ctx context.Context) error {
			_, err := w.api.Containers.StopContainer(ctx, connect.NewRequest(&wherryv1.StopContainerRequest{Container: name, Timeout: durationpb.New(5 * time.Second)}))
			return err
		})
	case m.phase != phaseRunning && w.random.IntN(3) > 0:
		w.do("start", name, m, phaseRunning, func(ctx context.Context) error {
			_, err := w.api.Containers.StartContainer(ctx, connect.NewRequest(&wherryv1.StartContainerRequest{Container: name}))
			return err
		})
	default:
		w.do("remove", name, m, "", func(ctx context.Context) error {
			_, err := w.api.Containers.RemoveContainer(ctx, connect.NewRequest(&wherryv1.RemoveContainerRequest{Container: name, Force: true}))
			return err
		})
	}
}

func (w *worker) create(name string, m *model) {
	w.do("create", name, m, phaseCreated, func(ctx context.Context) error {
		res, err := w.api.Containers.CreateContainer(ctx, connect.NewRequest(&wherryv1.CreateContainerRequest{
			Spec: &wherryv1.ContainerSpec{Name: name, Image: w.image, Command: []string{"sleep", "inf"}}}))
		if err == nil {
			m.id = res.Msg.Id
		}
		return err
	})
}

// do makes a call that leads to a phase, and finds out when it was cut off.
func (w *worker) do(what, name string, m *model, to string, call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := call(ctx)
	switch {
	case err == nil:
		w.done[what]++
		m.phase = to
	case cutOff(err):
		w.done[what+" cut off"]++
		w.resolve(what, name, m, to)
	default:
		w.t.Errorf("%s %s, which is %q: %v", what, name, m.phase, err)
	}
}

// cutOff says whether the machine did not answer, as opposed to refusing.
func cutOff(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeCanceled, connect.CodeAborted:
		return true
	case connect.CodeUnknown, connect.CodeInternal:
		return !connect.IsWireError(err)
	}
	return false
}

// resolve asks until the machine answers what became of a call.
func (w *worker) resolve(what, name string, m *model, to string) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		phase, id, err := w.look(name)
		late := time.Now().After(deadline)
		switch {
		case err != nil && (!cutOff(err) || late):
			w.t.Errorf("look for %s: %v", name, err)
			return
		case err != nil:
			continue
		case phase == to, phase == m.phase, what == "remove" && phase == phaseExited:
			if m.id != "" && id != "" && m.id != id {
				w.t.Errorf("%s is another container now", name)
			}
			m.id, m.phase = id, phase
			return
		case late:
			w.t.Errorf("%s %s was cut off: it was %q, should be that or %q, and is %q", what, name, m.phase, to, phase)
			return
		}
	}
}

func (w *worker) look(name string) (phase, id string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	res, err := w.api.Containers.InspectContainer(ctx, connect.NewRequest(&wherryv1.InspectContainerRequest{Container: name}))
	var wire *connect.Error
	if errors.As(err, &wire) && wire.Code() == connect.CodeNotFound {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	return res.Msg.Container.State.Phase.String(), res.Msg.Container.Id, nil
}
