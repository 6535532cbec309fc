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
)

// probeShims asks every shim that outlived the last life of this process
// whether its task has ended. It has to happen before containerd starts: that
// deletes ended tasks while it loads, and their exit codes with them.
func (e *Engine) probeShims(ctx context.Context) *foundEnds {
	found := &foundEnds{}
	var all sync.WaitGroup
	limit := make(chan struct{}, 8)
	for _, ns := range []string{userNamespace, systemNamespace} {
		dir := filepath.Join(e.opts.State, "io.containerd.runtime.v2.task", ns)
		entries, _ := os.ReadDir(dir) // none after a boot
		for _, d := range entries {
			all.Go(func() {
				limit <- struct{}{}
				defer func() { <-limit }()
				how, ended := probeShim(namespaces.WithNamespace(ctx, ns), filepath.Join(dir, d.Name()), d.Name())
				if ended {
					found.add(d.Name(), how)
				}
			})
		}
	}
	all.Wait()
	return found
}

// probeShim reports an ended task. A shim that does not answer has nothing to say.
func probeShim(ctx context.Context, bundle, id string) (how end, ended bool) {
	if strings.HasPrefix(id, hiddenBundle) {
		dismissShim(ctx, bundle)
		return end{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := callShim(ctx, bundle, func(shim taskapi.TTRPCTaskService) error {
		st, err := shim.State(ctx, &taskapi.StateRequest{ID: id})
		if err != nil || st.Status != tasktypes.Status_STOPPED {
			return err
		}
		ended = true
		how = end{code: int(st.ExitStatus), at: time.Now()}
		if st.ExitedAt != nil {
			how.at = st.ExitedAt.AsTime()
		}
		return nil
	})
	return how, ended && err == nil
}

// callShim talks to the shim of a bundle past containerd.
func callShim(ctx context.Context, bundle string, f func(taskapi.TTRPCTaskService) error) error {
	address, ok := shimAddress(bundle)
	if !ok {
		return fmt.Errorf("bundle %s names no shim", bundle)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
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
	mu   sync.Mutex
	ends map[string]end
}

func (f *foundEnds) add(id string, how end) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ends == nil {
		f.ends = map[string]end{}
	}
	f.ends[id] = how
}

func (f *foundEnds) get(id string) (end, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how, ok := f.ends[id]
	return how, ok
}
