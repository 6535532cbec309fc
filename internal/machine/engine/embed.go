// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/sirupsen/logrus"
)

// disabled are plugins that our builtins pull in and nobody here uses.
var disabled = []string{
	"io.containerd.server.v1.grpc",
	"io.containerd.metrics.v1.grpc-prometheus",
	"io.containerd.metrics.v1.grpc-otel",
}

// inMemory receives the client that the plugin below makes while containerd
// starts: a plugin's context is the only place where that client can be made.
var inMemory struct {
	once   sync.Once
	client chan *client.Client
}

func registerClientPlugin() {
	inMemory.client = make(chan *client.Client, 1)
	registry.Register(&plugin.Registration{
		Type: "io.wherry.v1",
		ID:   "engine",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.LeasePlugin, plugins.SandboxStorePlugin,
			plugins.TransferPlugin, plugins.MountManagerPlugin, plugins.ServicePlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			c, err := client.New("", client.WithInMemoryServices(ic), client.WithDefaultNamespace(userNamespace))
			if err != nil {
				return nil, err
			}
			inMemory.client <- c
			return c, nil
		},
	})
}

// startContainerd starts the embedded server. Only its ttrpc socket listens:
// shims send their events there.
func startContainerd(ctx context.Context, o Options) (*server.Server, *client.Client, error) {
	inMemory.once.Do(registerClientPlugin)
	quietContainerd(o.Log)
	if err := showShim(o.Shim); err != nil {
		return nil, nil, err
	}
	cfg := containerdConfig(o)
	if err := server.CreateTopLevelDirectories(cfg); err != nil {
		return nil, nil, err
	}
	if err := mount.SetTempMountLocation(filepath.Join(cfg.Root, "tmpmounts")); err != nil {
		return nil, nil, err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		return nil, nil, fmt.Errorf("clean temporary mounts: %w", err)
	}
	s, err := server.New(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, nil, err
	}
	s.Wait()
	select {
	case c := <-inMemory.client:
		return s, c, nil
	default:
		s.Stop()
		return nil, nil, errors.New("a plugin that the client needs did not load")
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

func containerdConfig(o Options) *srvconfig.Config {
	sock := filepath.Join(o.State, "containerd.sock")
	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    filepath.Join(o.Root, "containerd"),
		State:   o.State,
		Plugins: map[string]any{
			"io.containerd.server.v1.grpc":  map[string]any{"address": sock},
			"io.containerd.server.v1.ttrpc": map[string]any{"address": sock + ".ttrpc"},
		},
		DisabledPlugins: disabled,
		RequiredPlugins: []string{"io.wherry.v1.engine"},
	}
}
