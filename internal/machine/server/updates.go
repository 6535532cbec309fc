// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
)

// Updates is what the server asks of the machine's updates. Functions that are
// handed over to be called with progress return an error when the caller is gone,
// which does not end an update.
type Updates interface {
	Update(ctx context.Context) (*wherryv1.GetUpdateResponse, error)
	CheckUpdate(ctx context.Context) (*wherryv1.CheckUpdateResponse, error)
	// ApplyUpdate returns when the machine is about to reboot, or when the release is staged if that was all that was wanted.
	ApplyUpdate(ctx context.Context, who string, req *wherryv1.ApplyUpdateRequest, send func(*wherryv1.UpdateProgress) error) error
	// ApplyBundle does the same with a bundle, which it reads to its end before it looks at it.
	ApplyBundle(ctx context.Context, who string, start *wherryv1.ApplyBundleStart, bundle io.Reader, send func(*wherryv1.UpdateProgress) error) error
	PauseUpdates(ctx context.Context, req *wherryv1.PauseUpdatesRequest) error
	ResumeUpdates(ctx context.Context) error
	UpdateHistory(ctx context.Context, limit uint32) ([]*wherryv1.UpdateRecord, error)
	Rollback(ctx context.Context, who string) (*wherryv1.RollbackResponse, error)
}

type updates struct{ Updates }

func (u *updates) GetUpdate(ctx context.Context, _ *connect.Request[wherryv1.GetUpdateRequest]) (*connect.Response[wherryv1.GetUpdateResponse], error) {
	res, err := u.Update(ctx)
	return respond(res, err)
}

func (u *updates) CheckUpdate(ctx context.Context, _ *connect.Request[wherryv1.CheckUpdateRequest]) (*connect.Response[wherryv1.CheckUpdateResponse], error) {
	res, err := u.Updates.CheckUpdate(ctx)
	return respond(res, err)
}

func (u *updates) ApplyUpdate(ctx context.Context, req *connect.Request[wherryv1.ApplyUpdateRequest], stream *connect.ServerStream[wherryv1.ApplyUpdateResponse]) error {
	send := serial(stream.Send)
	return u.Updates.ApplyUpdate(ctx, callerFrom(ctx).fingerprint, req.Msg, func(p *wherryv1.UpdateProgress) error {
		return send(&wherryv1.ApplyUpdateResponse{Progress: p})
	})
}

var errNoChunk = errors.New("after the first message only pieces of the bundle are expected")

func (u *updates) ApplyBundle(ctx context.Context, stream *connect.BidiStream[wherryv1.ApplyBundleRequest, wherryv1.ApplyBundleResponse]) error {
	message, err := stream.Receive()
	if err != nil {
		return firstError(err)
	}
	start := message.GetStart()
	if start == nil {
		return invalid("the first message must say what to do with the bundle")
	}
	bundle := newChunks(func() ([]byte, error) {
		m, err := stream.Receive()
		if err != nil {
			return nil, endError(err)
		}
		if len(m.GetChunk()) == 0 {
			return nil, errNoChunk
		}
		return m.GetChunk(), nil
	})
	send := serial(stream.Send)
	return u.Updates.ApplyBundle(ctx, callerFrom(ctx).fingerprint, start, bundle, func(p *wherryv1.UpdateProgress) error {
		return send(&wherryv1.ApplyBundleResponse{Progress: p})
	})
}

func (u *updates) PauseUpdates(ctx context.Context, req *connect.Request[wherryv1.PauseUpdatesRequest]) (*connect.Response[wherryv1.PauseUpdatesResponse], error) {
	return respond(&wherryv1.PauseUpdatesResponse{}, u.Updates.PauseUpdates(ctx, req.Msg))
}

func (u *updates) ResumeUpdates(ctx context.Context, _ *connect.Request[wherryv1.ResumeUpdatesRequest]) (*connect.Response[wherryv1.ResumeUpdatesResponse], error) {
	return respond(&wherryv1.ResumeUpdatesResponse{}, u.Updates.ResumeUpdates(ctx))
}

func (u *updates) ListUpdates(ctx context.Context, req *connect.Request[wherryv1.ListUpdatesRequest]) (*connect.Response[wherryv1.ListUpdatesResponse], error) {
	list, err := u.UpdateHistory(ctx, req.Msg.Limit)
	return respond(&wherryv1.ListUpdatesResponse{Updates: list}, err)
}

func (u *updates) Rollback(ctx context.Context, _ *connect.Request[wherryv1.RollbackRequest]) (*connect.Response[wherryv1.RollbackResponse], error) {
	res, err := u.Updates.Rollback(ctx, callerFrom(ctx).fingerprint)
	return respond(res, err)
}
