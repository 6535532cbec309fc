// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// probeTimeout bounds what one shim may take to answer.
const probeTimeout = 5 * time.Second

// probeShims asks every shim that outlived the last life of this process
// whether its task has ended. It has to happen before containerd starts: that
// deletes ended tasks while it loads, and their exit codes with them. Tasks
// that still run are watched until foundEnds is stopped, since they may end
// before containerd looks.
func (e *Engine) probeShims(ctx context.Context) *foundEnds {
	found := &foundEnds{ends: map[string]end{}, watched: map[string]<-chan struct{}{}}
	ctx, found.stop = context.WithCancel(ctx)
	var all sync.WaitGroup
	limit := make(chan struct{}, 8)
	for _, ns := range []string{userNamespace, systemNamespace} {
		dir := filepath.Join(e.opts.State, "io.containerd.runtime.v2.task", ns)
		entries, _ := os.ReadDir(dir) // none after a boot
		for _, d := range entries {
			all.Go(func() {
				limit <- struct{}{}
				defer func() { <-limit }()
				found.probe(namespaces.WithNamespace(ctx, ns), filepath.Join(dir, d.Name()), d.Name())
			})
		}
	}
	all.Wait()
	return found
}

// probe returns when the shim has said whether its task runs; one that does is
// watched from then on. A shim that does not answer has nothing to say.
func (f *foundEnds) probe(ctx context.Context, bundle, id string) {
	if strings.HasPrefix(id, hiddenBundle) {
		dismissShim(ctx, bundle)
		return
	}
	answered, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		_ = callShim(ctx, bundle, func(shim taskapi.TTRPCTaskService) error { // see above
			if !f.ask(ctx, shim, id) {
				return nil
			}
			f.watch(id, over)
			close(answered)
			w, err := shim.Wait(ctx, &taskapi.WaitRequest{ID: id})
			if err == nil {
				f.add(id, ended(w.ExitStatus, w.ExitedAt))
			}
			return err
		})
	}()
	select {
	case <-answered:
	case <-over:
	}
}

// ask says whether the task runs; the end of one that does not is kept.
func (f *foundEnds) ask(ctx context.Context, shim taskapi.TTRPCTaskService, id string) (runs bool) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	st, err := shim.State(ctx, &taskapi.StateRequest{ID: id})
	if err == nil && st.Status == tasktypes.Status_STOPPED {
		f.add(id, ended(st.ExitStatus, st.ExitedAt))
		return false
	}
	return err == nil
}

func ended(status uint32, at *timestamppb.Timestamp) end {
	how := end{code: int(status), at: time.Now()}
	if at != nil {
		how.at = at.AsTime()
	}
	return how
}

// callShim talks to the shim of a bundle past containerd.
func callShim(ctx context.Context, bundle string, f func(taskapi.TTRPCTaskService) error) error {
	address, ok := shimAddress(bundle)
	if !ok {
		return fmt.Errorf("bundle %s names no shim", bundle)
	}
	conn, err := (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, "unix", address)
	if err != nil {
		return err
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	return f(taskapi.NewTTRPCTaskClient(c))
}

// shimAddress reads where the shim of a bundle listens.
func shimAddress(bundle string) (string, bool) {
	b, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err != nil {
		return "", false
	}
	var p struct {
		Address string `json:"address"`
	}
	if json.Unmarshal(b, &p) != nil {
		return "", false
	}
	return strings.CutPrefix(p.Address, "unix://")
}

// foundEnds are the ends that happened while this process was away.
type foundEnds struct {
	stop func() // ends the watching

	mu      sync.Mutex
	ends    map[string]end
	watched map[string]<-chan struct{} // closes when the shim has said its last
}

func (f *foundEnds) watch(id string, over <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched[id] = over
}

func (f *foundEnds) add(id string, how end) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[id] = how
}

// get returns the end of a task that does not run any more.
func (f *foundEnds) get(id string) (end, bool) {
	f.mu.Lock()
	over := f.watched[id]
	f.mu.Unlock()
	if over != nil {
		select {
		case <-over:
		case <-time.After(probeTimeout):
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	how, ok := f.ends[id]
	return how, ok
}
