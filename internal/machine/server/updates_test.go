// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// fakeUpdates takes bundles.
type fakeUpdates struct {
	Updates
	who string
}

func (f *fakeUpdates) ApplyBundle(_ context.Context, who string, start *wherryv1.ApplyBundleStart, bundle io.Reader, send func(*wherryv1.UpdateProgress) error) error {
	f.who = who
	n, err := io.Copy(io.Discard, bundle)
	if err != nil {
		return err
	}
	return send(&wherryv1.UpdateProgress{Phase: "staged", Message: fmt.Sprint(n, start.Retry)})
}

func TestApplyBundle(t *testing.T) {
	updates := &fakeUpdates{}
	r := newRig(t, func(o *Options) { o.Updates = updates })
	c := r.dial(t, r.keys[config.RoleAdmin])
	start := &wherryv1.ApplyBundleRequest{Message: &wherryv1.ApplyBundleRequest_Start{Start: &wherryv1.ApplyBundleStart{Retry: true}}}
	chunk := func(n int) *wherryv1.ApplyBundleRequest {
		return &wherryv1.ApplyBundleRequest{Message: &wherryv1.ApplyBundleRequest_Chunk{Chunk: make([]byte, n)}}
	}
	for name, tc := range map[string]struct {
		messages []*wherryv1.ApplyBundleRequest
		want     string
	}{
		"good":          {[]*wherryv1.ApplyBundleRequest{start, chunk(1 << 20), chunk(5)}, "1048581 true"},
		"nothing":       {nil, "the stream ended before its first message"},
		"no start":      {[]*wherryv1.ApplyBundleRequest{chunk(5)}, "the first message must say"},
		"start twice":   {[]*wherryv1.ApplyBundleRequest{start, chunk(5), start}, errNoChunk.Error()},
		"empty piece":   {[]*wherryv1.ApplyBundleRequest{start, chunk(0)}, errNoChunk.Error()},
		"piece too big": {[]*wherryv1.ApplyBundleRequest{start, chunk(2 << 20)}, "resource_exhausted"},
	} {
		stream := c.Updates.ApplyBundle(t.Context())
		for _, m := range tc.messages {
			_ = stream.Send(m) // an error shows when the answer is read
		}
		_ = stream.CloseRequest()
		got, err := stream.Receive()
		if err == nil && got.Progress.Message != tc.want || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, %v, want %q", name, got, err, tc.want)
		}
		stream.CloseResponse()
	}
	if updates.who == "" {
		t.Error("the part does not hear who asks")
	}
	stream := r.dial(t, r.keys[config.RoleOperator]).Updates.ApplyBundle(t.Context())
	_ = stream.Send(start)
	if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("as an operator: %v", err)
	}
}

func TestMachineWithoutUpdates(t *testing.T) {
	r := newRig(t, nil)
	if _, err := r.dial(t, r.keys[config.RoleReader]).Updates.GetUpdate(t.Context(), req(&wherryv1.GetUpdateRequest{})); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Error(err)
	}
}
