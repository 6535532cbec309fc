// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins"
	containerd "github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/errdefs"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/sirupsen/logrus"
)

// embedded is containerd: its plugins, running in this process. Its own server package is
// not used: that would link its configuration files, proxies to other processes
// and metrics.
type embedded struct {
	plugins []*plugin.Plugin // in the order they were started
}

// Stop closes the plugins, the last started first.
func (c *embedded) Stop() {
	for _, p := range slices.Backward(c.plugins) {
		if instance, err := p.Instance(); err == nil {
			if closer, ok := instance.(io.Closer); ok {
				closer.Close()
			}
		}
	}
}

// startContainerd starts the plugins that are linked in, in the order of their
// needs. Only the ttrpc socket listens: shims send their events there.
func startContainerd(ctx context.Context, o Options) (*embedded, *client.Client, error) {
	quietContainerd(o.Log)
	if err := showShim(o.Shim); err != nil {
		return nil, nil, err
	}
	root := filepath.Join(o.Root, "containerd")
	if err := makeDirs(root, o.State); err != nil {
		return nil, nil, err
	}
	if err := mount.SetTempMountLocation(filepath.Join(root, "tmpmounts")); err != nil {
		return nil, nil, err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		return nil, nil, fmt.Errorf("clean temporary mounts: %w", err)
	}
	c := &embedded{}
	set := plugin.NewPluginSet()
	if err := c.load(ctx, set, root, o.State); err != nil {
		c.Stop()
		return nil, nil, err
	}
	cl, err := inMemoryClient(ctx, set)
	if err != nil {
		c.Stop()
		return nil, nil, err
	}
	return c, cl, nil
}

// makeDirs makes the directories as containerd wants them: what is below the
// state must be reachable for the users of containers.
func makeDirs(root, state string) error {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	return os.MkdirAll(state, 0o711)
}

func (c *embedded) load(ctx context.Context, set *plugin.Set, root, state string) error {
	socket := filepath.Join(state, "containerd.sock")
	var servers []interface{ Start(context.Context) error }
	var ready sync.WaitGroup
	for _, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		id := r.URI()
		ic := plugin.NewContext(ctx, set, map[string]string{
			plugins.PropertyRootDir: filepath.Join(root, id), plugins.PropertyStateDir: filepath.Join(state, id),
			plugins.PropertyGRPCAddress: socket, plugins.PropertyTTRPCAddress: socket + ".ttrpc",
		})
		ic.RegisterReadiness = func() func() { ready.Add(1); return ready.Done }
		if listener, ok := r.Config.(interface{ SetAddress(string) }); ok {
			listener.SetAddress(socket + ".ttrpc")
		}
		ic.Config = r.Config
		p := r.Init(ic)
		if err := set.Add(p); err != nil {
			return fmt.Errorf("plugin %s: %w", id, err)
		}
		instance, err := p.Instance()
		if plugin.IsSkipPlugin(err) {
			continue
		} else if err != nil {
			return fmt.Errorf("plugin %s: %w", id, err)
		}
		c.plugins = append(c.plugins, p)
		if r.Type == plugins.SnapshotPlugin {
			if err := removeAbandoned(ctx, instance); err != nil {
				return fmt.Errorf("plugin %s: %w", id, err)
			}
		}
		if s, ok := instance.(interface{ Start(context.Context) error }); ok && r.Type == plugins.ServerPlugin {
			servers = append(servers, s)
		}
	}
	for _, s := range servers {
		if err := s.Start(ctx); err != nil {
			return err
		}
	}
	ready.Wait()
	return nil
}

// removeAbandoned removes the directories of snapshots that were being made when
// this process was killed: made, but not yet in the snapshotter's records. The
// records give the number of such a snapshot to the next one, which could then
// not be made.
func removeAbandoned(ctx context.Context, snapshotter any) error {
	cleaner, ok := snapshotter.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	if err := cleaner.Cleanup(ctx); err != nil && !errdefs.IsNotFound(err) { // not found: no snapshot was ever made
		return fmt.Errorf("remove what a crash left behind: %w", err)
	}
	return nil
}

// inMemoryClient is a client whose calls are calls of functions. It has the
// services that this package uses.
func inMemoryClient(ctx context.Context, set *plugin.Set) (*client.Client, error) {
	ic := plugin.NewContext(ctx, set, nil)
	found, err := ic.GetByType(plugins.ServicePlugin)
	if err != nil {
		return nil, err
	}
	events, err := single[client.EventService](ic, plugins.EventPlugin)
	leaseManager, err2 := single[leases.Manager](ic, plugins.LeasePlugin)
	sandboxes, err3 := single[sandbox.Store](ic, plugins.SandboxStorePlugin)
	if err := errors.Join(err, err2, err3); err != nil {
		return nil, err
	}
	options := []client.ServicesOpt{client.WithEventService(events), client.WithLeasesService(leaseManager), client.WithSandboxStore(sandboxes)}
	for name, option := range services {
		o, ok := option(found[name])
		if !ok {
			return nil, fmt.Errorf("containerd's service %s is missing", name)
		}
		options = append(options, o)
	}
	return client.New("", client.WithServices(options...), client.WithDefaultNamespace(userNamespace))
}

// single returns the only plugin of a type.
func single[T any](ic *plugin.InitContext, t plugin.Type) (T, error) {
	var none T
	i, err := ic.GetSingle(t)
	if err != nil {
		return none, fmt.Errorf("containerd's plugin %s: %w", t, err)
	}
	v, ok := i.(T)
	if !ok {
		return none, fmt.Errorf("containerd's plugin %s is a %T", t, i)
	}
	return v, nil
}

// services are what makes client options of containerd's services.
var services = map[string]func(any) (client.ServicesOpt, bool){
	containerd.ContentService:    as(client.WithContentStore),
	containerd.ImagesService:     as(client.WithImageClient),
	containerd.SnapshotsService:  as(client.WithSnapshotters),
	containerd.ContainersService: as(client.WithContainerClient),
	containerd.TasksService:      as(client.WithTaskClient),
	containerd.DiffService:       as(client.WithDiffClient),
	containerd.NamespacesService: as(client.WithNamespaceClient),
}

func as[T any](option func(T) client.ServicesOpt) func(any) (client.ServicesOpt, bool) {
	return func(v any) (client.ServicesOpt, bool) {
		t, ok := v.(T)
		if !ok {
			return nil, false
		}
		return option(t), true
	}
}

// quietContainerd sends containerd's own log to ours, at debug level: what
// matters comes back as errors of our calls, and some of its errors are told at
// every normal end of a container.
func quietContainerd(log *slog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.ErrorLevel)
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(logHook{log})
}

type logHook struct{ log *slog.Logger }

func (logHook) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }
func (h logHook) Fire(e *logrus.Entry) error {
	h.log.Debug("containerd: "+e.Message, "err", e.Data[logrus.ErrorKey], "id", e.Data["id"])
	return nil
}
