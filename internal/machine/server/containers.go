// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// containers is ContainerService.
type containers struct{ Containers }

func invalid(message string) error {
	return connect.NewError(connect.CodeInvalidArgument, errors.New(message))
}

// needRef refuses an empty reference before it can mean something by accident.
func needRef(ref string) error {
	if ref == "" {
		return invalid("no container is named")
	}
	return nil
}

// maxStopTimeout keeps a caller from holding a container in "stopping" for ever.
const maxStopTimeout = 24 * time.Hour

func optionalDuration(d *durationpb.Duration) (*time.Duration, error) {
	if d == nil {
		return nil, nil
	}
	v := d.AsDuration()
	if v < 0 || v > maxStopTimeout {
		return nil, invalid("the timeout must be between 0 and 24 hours")
	}
	return &v, nil
}

func (c *containers) CreateContainer(ctx context.Context, req *connect.Request[wherryv1.CreateContainerRequest]) (*connect.Response[wherryv1.CreateContainerResponse], error) {
	if req.Msg.Spec == nil {
		return nil, invalid("a container needs a spec")
	}
	id, name, warnings, err := c.Create(ctx, req.Msg.Spec)
	return respond(&wherryv1.CreateContainerResponse{Id: id, Name: name, Warnings: warnings}, err)
}

func (c *containers) StartContainer(ctx context.Context, req *connect.Request[wherryv1.StartContainerRequest]) (*connect.Response[wherryv1.StartContainerResponse], error) {
	err := needRef(req.Msg.Container)
	if err == nil {
		err = c.Start(ctx, req.Msg.Container)
	}
	return respond(&wherryv1.StartContainerResponse{}, err)
}

func (c *containers) StopContainer(ctx context.Context, req *connect.Request[wherryv1.StopContainerRequest]) (*connect.Response[wherryv1.StopContainerResponse], error) {
	timeout, err := optionalDuration(req.Msg.Timeout)
	if err == nil {
		err = needRef(req.Msg.Container)
	}
	if err == nil {
		err = c.Stop(ctx, req.Msg.Container, req.Msg.Signal, timeout)
	}
	return respond(&wherryv1.StopContainerResponse{}, err)
}

func (c *containers) RestartContainer(ctx context.Context, req *connect.Request[wherryv1.RestartContainerRequest]) (*connect.Response[wherryv1.RestartContainerResponse], error) {
	timeout, err := optionalDuration(req.Msg.Timeout)
	if err == nil {
		err = needRef(req.Msg.Container)
	}
	if err == nil {
		err = c.Restart(ctx, req.Msg.Container, timeout)
	}
	return respond(&wherryv1.RestartContainerResponse{}, err)
}

func (c *containers) KillContainer(ctx context.Context, req *connect.Request[wherryv1.KillContainerRequest]) (*connect.Response[wherryv1.KillContainerResponse], error) {
	err := needRef(req.Msg.Container)
	if err == nil {
		err = c.Kill(ctx, req.Msg.Container, req.Msg.Signal)
	}
	return respond(&wherryv1.KillContainerResponse{}, err)
}

func (c *containers) PauseContainer(ctx context.Context, req *connect.Request[wherryv1.PauseContainerRequest]) (*connect.Response[wherryv1.PauseContainerResponse], error) {
	err := needRef(req.Msg.Container)
	if err == nil {
		err = c.Pause(ctx, req.Msg.Container)
	}
	return respond(&wherryv1.PauseContainerResponse{}, err)
}

func (c *containers) UnpauseContainer(ctx context.Context, req *connect.Request[wherryv1.UnpauseContainerRequest]) (*connect.Response[wherryv1.UnpauseContainerResponse], error) {
	err := needRef(req.Msg.Container)
	if err == nil {
		err = c.Unpause(ctx, req.Msg.Container)
	}
	return respond(&wherryv1.UnpauseContainerResponse{}, err)
}

func (c *containers) ListProcesses(ctx context.Context, req *connect.Request[wherryv1.ListProcessesRequest]) (*connect.Response[wherryv1.ListProcessesResponse], error) {
	if err := needRef(req.Msg.Container); err != nil {
		return nil, err
	}
	list, err := c.Top(ctx, req.Msg.Container)
	return respond(&wherryv1.ListProcessesResponse{Processes: list}, err)
}

func (c *containers) RemoveContainer(ctx context.Context, req *connect.Request[wherryv1.RemoveContainerRequest]) (*connect.Response[wherryv1.RemoveContainerResponse], error) {
	err := needRef(req.Msg.Container)
	if err == nil {
		err = c.Remove(ctx, req.Msg.Container, req.Msg.Force, req.Msg.Volumes)
	}
	return respond(&wherryv1.RemoveContainerResponse{}, err)
}

func (c *containers) ListContainers(ctx context.Context, req *connect.Request[wherryv1.ListContainersRequest]) (*connect.Response[wherryv1.ListContainersResponse], error) {
	if req.Msg.System && !allows(callerFrom(ctx).role, config.RoleAdmin) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("only the role admin sees system containers"))
	}
	list, err := c.List(ctx, req.Msg)
	return respond(&wherryv1.ListContainersResponse{Containers: list}, err)
}

func (c *containers) InspectContainer(ctx context.Context, req *connect.Request[wherryv1.InspectContainerRequest]) (*connect.Response[wherryv1.InspectContainerResponse], error) {
	if err := needRef(req.Msg.Container); err != nil {
		return nil, err
	}
	res, err := c.Inspect(ctx, req.Msg.Container)
	if err == nil && !allows(callerFrom(ctx).role, config.RoleOperator) {
		res = proto.CloneOf(res)
		hideEnv(res.Spec)
		hideEnv(res.Effective)
	}
	return respond(res, err)
}

// hideEnv replaces the values of a container's environment: passwords live there.
func hideEnv(spec *wherryv1.ContainerSpec) {
	for i, e := range spec.GetEnv() {
		name, _, _ := strings.Cut(e, "=")
		spec.Env[i] = name + "=(hidden)"
	}
}

func (c *containers) WaitContainer(ctx context.Context, req *connect.Request[wherryv1.WaitContainerRequest]) (*connect.Response[wherryv1.WaitContainerResponse], error) {
	if err := needRef(req.Msg.Container); err != nil {
		return nil, err
	}
	res, err := c.Wait(ctx, req.Msg)
	return respond(res, err)
}

func (c *containers) StreamContainerLogs(ctx context.Context, req *connect.Request[wherryv1.StreamContainerLogsRequest], stream *connect.ServerStream[wherryv1.ContainerLogChunk]) error {
	if err := needRef(req.Msg.Container); err != nil {
		return err
	}
	return c.Logs(ctx, req.Msg, serial(stream.Send))
}

func (c *containers) StreamStats(ctx context.Context, req *connect.Request[wherryv1.StreamStatsRequest], stream *connect.ServerStream[wherryv1.StatsSample]) error {
	return c.Stats(ctx, req.Msg.Containers, req.Msg.Once, serial(stream.Send))
}

func (c *containers) StreamEvents(ctx context.Context, req *connect.Request[wherryv1.StreamEventsRequest], stream *connect.ServerStream[wherryv1.Event]) error {
	return c.Events(ctx, req.Msg, serial(stream.Send))
}

func (c *containers) CopyTo(ctx context.Context, stream *connect.ClientStream[wherryv1.CopyToRequest]) (*connect.Response[wherryv1.CopyToResponse], error) {
	if !stream.Receive() {
		return nil, firstError(stream.Err())
	}
	start := stream.Msg().GetStart()
	if start == nil || start.Container == "" || start.Path == "" {
		return nil, invalid("the first message must name the container and the path")
	}
	tar := newChunks(func() ([]byte, error) {
		if !stream.Receive() {
			return nil, endError(stream.Err())
		}
		return stream.Msg().GetTar(), nil
	})
	return respond(&wherryv1.CopyToResponse{}, c.Containers.CopyTo(ctx, start.Container, start.Path, tar))
}

func (c *containers) CopyFrom(ctx context.Context, req *connect.Request[wherryv1.CopyFromRequest], stream *connect.ServerStream[wherryv1.CopyFromResponse]) error {
	if err := needRef(req.Msg.Container); err != nil {
		return err
	}
	if req.Msg.Path == "" {
		return invalid("no path is named")
	}
	out := newChunkWriter(func(p []byte) error { return stream.Send(&wherryv1.CopyFromResponse{Tar: p}) })
	if err := c.Containers.CopyFrom(ctx, req.Msg.Container, req.Msg.Path, out); err != nil {
		return err
	}
	return out.Flush()
}

// respond wraps the result of a part for Connect.
func respond[T any](message *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(message), nil
}
