// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
)

// Install is what the server asks of the installer. An error of send means that
// the caller is gone, which does not end an installation.
type Install interface {
	InstallDisks(ctx context.Context) (*wherryv1.ListDisksResponse, error)
	Install(ctx context.Context, req *wherryv1.InstallRequest, send func(*wherryv1.InstallResponse) error) error
}

type installs struct{ parts Install }

func (i *installs) ListDisks(ctx context.Context, _ *connect.Request[wherryv1.ListDisksRequest]) (*connect.Response[wherryv1.ListDisksResponse], error) {
	res, err := i.parts.InstallDisks(ctx)
	return respond(res, err)
}

func (i *installs) Install(ctx context.Context, req *connect.Request[wherryv1.InstallRequest], stream *connect.ServerStream[wherryv1.InstallResponse]) error {
	if req.Msg.Disk == "" {
		return invalid("no disk is named")
	}
	return i.parts.Install(ctx, req.Msg, serial(stream.Send))
}
