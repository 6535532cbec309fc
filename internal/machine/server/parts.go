// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"io"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// Containers is what the server asks of the engine about containers. Every
// ref is an id, a unique prefix of one, or a name. Functions that are handed
// over to be called with messages may be called from several goroutines; when
// they return an error the caller is gone.
type Containers interface {
	Create(ctx context.Context, spec *wherryv1.ContainerSpec) (id, name string, warnings []string, err error)
	Start(ctx context.Context, ref string) error
	Stop(ctx context.Context, ref, signal string, timeout *time.Duration) error
	Restart(ctx context.Context, ref string, timeout *time.Duration) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Remove(ctx context.Context, ref string, force, volumes bool) error
	List(ctx context.Context, req *wherryv1.ListContainersRequest) ([]*wherryv1.Container, error)
	Inspect(ctx context.Context, ref string) (*wherryv1.InspectContainerResponse, error)
	Wait(ctx context.Context, req *wherryv1.WaitContainerRequest) (*wherryv1.WaitContainerResponse, error)
	Logs(ctx context.Context, req *wherryv1.StreamContainerLogsRequest, send func(*wherryv1.ContainerLogChunk) error) error
	Attach(ctx context.Context, o AttachOptions, send func(*wherryv1.AttachResponse) error) error
	Exec(ctx context.Context, o ExecOptions, send func(*wherryv1.ExecResponse) error) error
	Top(ctx context.Context, ref string) ([]*wherryv1.Process, error)
	Stats(ctx context.Context, refs []string, once bool, send func(*wherryv1.StatsSample) error) error
	CopyTo(ctx context.Context, ref, path string, tar io.Reader) error
	CopyFrom(ctx context.Context, ref, path string, tar io.Writer) error
	Events(ctx context.Context, req *wherryv1.StreamEventsRequest, send func(*wherryv1.Event) error) error
}

// AttachOptions is how a caller joins a container's streams. The engine's type
// of the same name has the same fields.
type AttachOptions struct {
	Ref     string
	Stdin   io.Reader // nil: none
	Logs    bool
	Start   bool
	Size    *wherryv1.TerminalSize // at first
	Resize  <-chan *wherryv1.TerminalSize
	Signals <-chan string
}

// ExecOptions is a command to run in a container, and its caller's side.
type ExecOptions struct {
	Start   *wherryv1.ExecStart
	Stdin   io.Reader // nil: none
	Resize  <-chan *wherryv1.TerminalSize
	Signals <-chan string
	Detach  <-chan struct{}
}

// Images is what the server asks of the engine about images.
type Images interface {
	PullImage(ctx context.Context, req *wherryv1.PullImageRequest, send func(*wherryv1.PullImageResponse) error) error
	LoadImages(ctx context.Context, archive io.Reader) ([]*wherryv1.Image, error)
	ListImages(ctx context.Context, req *wherryv1.ListImagesRequest) ([]*wherryv1.Image, error)
	InspectImage(ctx context.Context, ref string) (*wherryv1.InspectImageResponse, error)
	TagImage(ctx context.Context, ref, name string) error
	RemoveImage(ctx context.Context, ref string, force bool) (*wherryv1.RemoveImageResponse, error)
	PruneImages(ctx context.Context, all bool) (*wherryv1.PruneImagesResponse, error)
}

// Volumes is what the server asks of the volumes.
type Volumes interface {
	CreateVolume(ctx context.Context, req *wherryv1.CreateVolumeRequest) (*wherryv1.Volume, error)
	ListVolumes(ctx context.Context) ([]*wherryv1.Volume, error)
	InspectVolume(ctx context.Context, name string) (*wherryv1.Volume, error)
	RemoveVolume(ctx context.Context, name string, force bool) error
	PruneVolumes(ctx context.Context, all bool) (*wherryv1.PruneVolumesResponse, error)
}

// Networks is what the server asks of the container networks.
type Networks interface {
	CreateNetwork(ctx context.Context, req *wherryv1.CreateNetworkRequest) (*wherryv1.Network, error)
	ListNetworks(ctx context.Context) ([]*wherryv1.Network, error)
	InspectNetwork(ctx context.Context, name string) (*wherryv1.Network, error)
	RemoveNetwork(ctx context.Context, name string) error
	PruneNetworks(ctx context.Context) (removed []string, err error)
}

// Attester is what the server asks of who proves what the machine booted.
type Attester interface {
	Attest(ctx context.Context, nonce []byte) (*wherryv1.Attestation, error)
}

// Machine is what the server asks of the machine as a whole.
type Machine interface {
	Status(ctx context.Context) (*wherryv1.GetStatusResponse, error)
	Config(ctx context.Context) (*wherryv1.GetConfigResponse, error)
	ApplyConfig(ctx context.Context, document string, dryRun bool) (*wherryv1.ApplyConfigResponse, error)
	Log(ctx context.Context, req *wherryv1.StreamLogRequest, send func(*wherryv1.LogLine) error) error
	Reboot(ctx context.Context) error
	PowerOff(ctx context.Context) error
}
