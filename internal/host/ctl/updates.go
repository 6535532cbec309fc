// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
)

// What an update ends with, beside 0 and 1: scripts want to tell a machine that
// went back, and works, from one that is not there.
const (
	exitRolledBack = 3
	exitNoAnswer   = 4
)

// UpdateOptions are the flags of update apply.
type UpdateOptions struct {
	File      string // a bundle; empty: from the repository
	Version   string // empty: the channel's, or the newest of the bundle
	StageOnly bool
	Retry     bool
	Wait      bool
	Timeout   time.Duration
}

// updateError says what a machine that knows nothing of updates means.
func (c *CLI) updateError(err error) error {
	if codeOf(err) == connect.CodeUnimplemented {
		return fmt.Errorf("machine %s runs a release that cannot update itself", c.machine.Name)
	}
	return err
}

// update asks how the machine's update fares.
func (c *CLI) update(ctx context.Context) (*client.Client, *wherryv1.GetUpdateResponse, error) {
	api, err := c.API(ctx)
	if err != nil {
		return nil, nil, err
	}
	u, err := unary(ctx, api.Updates.GetUpdate, &wherryv1.GetUpdateRequest{})
	return api, u, c.updateError(err)
}

// CheckUpdate has the machine ask its repository now.
func (c *CLI) CheckUpdate(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Updates.CheckUpdate, &wherryv1.CheckUpdateRequest{})
	if err != nil {
		return c.updateError(err)
	}
	if c.JSON {
		return c.printMessage(res)
	}
	if res.Offer == nil {
		fmt.Fprintf(c.Out, "nothing to take: %s\n", orNone(res.Why))
		return nil
	}
	fmt.Fprintln(c.Out, because(offerText(res.Offer), res.Why))
	return nil
}

// ApplyUpdate takes a release, from the repository or out of a bundle, and with
// Wait returns when the machine has decided whether it stays.
func (c *CLI) ApplyUpdate(ctx context.Context, o UpdateOptions) error {
	api, before, err := c.update(ctx)
	if err != nil {
		return err
	}
	if before.Unavailable != "" {
		return fmt.Errorf("machine %s cannot replace its release: %s", c.machine.Name, before.Unavailable)
	}
	p := newUpdateProgress(c)
	defer p.clear()
	if o.File != "" {
		err = c.sendBundle(ctx, api, o, p)
	} else {
		req := &wherryv1.ApplyUpdateRequest{Version: o.Version, StageOnly: o.StageOnly, Retry: o.Retry}
		err = serverStream(ctx, api.Updates.ApplyUpdate, req, func(m *wherryv1.ApplyUpdateResponse) error {
			p.show(m.Progress)
			return nil
		})
	}
	p.clear()
	switch {
	case err != nil && (p.phase != phaseRebooting || ctx.Err() != nil): // a machine that reboots does not say goodbye
		return retryHint(before, o, err)
	case p.phase != phaseRebooting:
		return c.staged(ctx, api, p)
	}
	c.notef("machine %s is rebooting from %s into %s", c.machine.Name, before.Version, p.target)
	r, now, err := c.outcome(ctx, before, o.Wait, o.Timeout)
	switch {
	case r == nil || err != nil:
		return err
	case r.State != stateCommitted && r.ByHand:
		return &ExitError{exitRolledBack, fmt.Errorf("somebody went back from %s while machine %s tried it, which runs %s again", p.target, c.machine.Name, now)}
	case r.State != stateCommitted:
		return &ExitError{exitRolledBack, fmt.Errorf("%s did not work on machine %s, which runs %s: %s", p.target, c.machine.Name, now, orNone(r.Reason))}
	}
	c.notef("machine %s runs %s%s", c.machine.Name, now, downtime(r))
	return nil
}

// staged tells what waits now.
func (c *CLI) staged(ctx context.Context, api *client.Client, p *updateProgress) error {
	u, err := unary(ctx, api.Updates.GetUpdate, &wherryv1.GetUpdateRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(u)
	}
	if p.target == "" {
		fmt.Fprintf(c.Out, "nothing to take: %s\n", orNone(u.Why))
		return nil
	}
	fmt.Fprintln(c.Out, because(p.target+" is staged, and the next restart tries it", u.Why))
	return nil
}

// retryHint adds what can be done where a release is refused because it failed here before.
func retryHint(u *wherryv1.GetUpdateResponse, o UpdateOptions, err error) error {
	avoided := func(v string) bool { return strings.HasPrefix(err.Error(), v+" ") }
	if codeOf(err) == connect.CodeFailedPrecondition && !o.Retry && slices.ContainsFunc(u.Avoided, avoided) {
		return fmt.Errorf("%w\n(--retry takes it all the same)", err)
	}
	return err
}

// sendBundle uploads a bundle and follows what becomes of it.
func (c *CLI) sendBundle(ctx context.Context, api *client.Client, o UpdateOptions, p *updateProgress) error {
	f, err := os.Open(o.File)
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read bundle: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return fmt.Errorf("read bundle: %s is not a file with a release (.wherry)", o.File)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := api.Updates.ApplyBundle(ctx)
	start := &wherryv1.ApplyBundleStart{Version: o.Version, StageOnly: o.StageOnly, Retry: o.Retry, Bytes: uint64(info.Size())}
	err = upload(stream, start, f, func(sent uint64) {
		p.show(&wherryv1.UpdateProgress{Phase: "sending", Target: info.Name(), Bytes: sent, TotalBytes: start.Bytes})
	})
	if err != nil && !errors.Is(err, io.EOF) { // at io.EOF the machine says why it wants no more
		return fmt.Errorf("send %s: %w", o.File, apiError(ctx, err))
	}
	p.target = "" // the file is not the release
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.updateError(apiError(ctx, err))
		}
		p.show(m.Progress)
	}
}

func upload(stream *connect.BidiStreamForClient[wherryv1.ApplyBundleRequest, wherryv1.ApplyBundleResponse], start *wherryv1.ApplyBundleStart, file io.Reader, sent func(uint64)) error {
	if err := stream.Send(&wherryv1.ApplyBundleRequest{Message: &wherryv1.ApplyBundleRequest_Start{Start: start}}); err != nil {
		return err
	}
	var n uint64
	err := sendChunks(file, func(chunk []byte) error {
		n += uint64(len(chunk))
		sent(n)
		return stream.Send(&wherryv1.ApplyBundleRequest{Message: &wherryv1.ApplyBundleRequest_Chunk{Chunk: chunk}})
	})
	if err != nil {
		return err
	}
	return stream.CloseRequest()
}

// Rollback goes back to the release before.
func (c *CLI) Rollback(ctx context.Context, wait bool, timeout time.Duration) error {
	api, before, err := c.update(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Updates.Rollback, &wherryv1.RollbackRequest{})
	if err != nil {
		return err
	}
	c.notef("machine %s is rebooting from %s back into %s", c.machine.Name, before.Version, res.Version)
	r, now, err := c.outcome(ctx, before, wait, timeout)
	switch {
	case r == nil || err != nil:
		return err
	case now != res.Version:
		return &ExitError{exitRolledBack, fmt.Errorf("machine %s did not go back to %s and runs %s: %s", c.machine.Name, res.Version, now, orNone(r.Reason))}
	}
	c.notef("machine %s runs %s again%s", c.machine.Name, now, downtime(r))
	return nil
}

// outcome waits for a machine that reboots. It returns how the update ended and which version
// runs then, and no record when nobody wants to wait.
func (c *CLI) outcome(ctx context.Context, before *wherryv1.GetUpdateResponse, wait bool, timeout time.Duration) (*wherryv1.UpdateRecord, string, error) {
	if !wait {
		c.notef("how it ends is told by: wherry machine update status")
		return nil, "", nil
	}
	now, err := c.awaitUpdate(ctx, before, timeout)
	if err != nil {
		return nil, "", err
	}
	if c.JSON {
		err = c.printMessage(now.Last)
	}
	return now.Last, now.Version, err
}

const stateCommitted = "committed"

// awaitUpdate asks, over connections of their own, until the machine has ended the update that it had not ended before,
// and when it went back, until its work is as it was, or it does not wait for that any more.
func (c *CLI) awaitUpdate(ctx context.Context, before *wherryv1.GetUpdateResponse, timeout time.Duration) (*wherryv1.GetUpdateResponse, error) {
	user := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := newUpdateProgress(c)
	defer p.clear()
	last := errors.New("the update has not ended")
	var ended *wherryv1.GetUpdateResponse
	for {
		select {
		case <-user.Done():
			return nil, context.Cause(user)
		case <-ctx.Done():
			if ended != nil {
				c.notAsBefore(p)
				return ended, nil
			}
			return nil, &ExitError{exitNoAnswer, fmt.Errorf("machine %s did not say within %v how the update ended: %w", c.machine.Name, timeout, last)}
		case <-time.After(restartPoll):
		}
		now, err := c.askUpdate(ctx)
		if err != nil {
			last = err
			continue
		}
		if r := now.Last; r.GetEndedAt() != nil && !proto.Equal(r.StartedAt, endedBefore(before)) {
			if ended = now; now.Returning == nil {
				if r.Downtime == nil {
					c.notAsBefore(p)
				}
				return now, nil
			}
		}
		p.trial(now)
	}
}

// notAsBefore warns of what did not come back with the old release, as far as that was seen.
func (c *CLI) notAsBefore(p *updateProgress) {
	if p.clear(); len(p.missing) > 0 {
		c.notef("machine %s: not all is as it was before: %s", c.machine.Name, strings.Join(p.missing, ", "))
	}
}

// endedBefore is when the last update began that had ended already.
func endedBefore(u *wherryv1.GetUpdateResponse) *timestamppb.Timestamp {
	if u.Last.GetEndedAt() == nil {
		return nil
	}
	return u.Last.StartedAt
}

// askUpdate is update over a connection of its own, because the old one went with the machine.
func (c *CLI) askUpdate(ctx context.Context) (*wherryv1.GetUpdateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	api, _, err := c.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	return unary(ctx, api.Updates.GetUpdate, &wherryv1.GetUpdateRequest{})
}

// PauseUpdates keeps the machine from updating by itself: for a time, until a
// date, or with neither until it is resumed.
func (c *CLI) PauseUpdates(ctx context.Context, length time.Duration, date string) error {
	req := &wherryv1.PauseUpdatesRequest{}
	switch {
	case length > 0 && date != "":
		return errors.New("say either for how long or until when")
	case length < 0:
		return fmt.Errorf("--for %s: a pause lasts some time", length)
	case length > 0:
		req.Until = timestamppb.New(c.now().Add(length))
	case date != "":
		until, err := parseDate(date)
		if err != nil || !until.After(c.now()) {
			return fmt.Errorf("--until %q: want a date to come (2026-12-24, 2026-12-24T18:00)", date)
		}
		req.Until = timestamppb.New(until)
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if _, err := unary(ctx, api.Updates.PauseUpdates, req); err != nil {
		return c.updateError(err)
	}
	if req.Until == nil {
		c.notef("machine %s does not update by itself until: wherry machine update resume", c.machine.Name)
		return nil
	}
	c.notef("machine %s does not update by itself until %s", c.machine.Name, localTime(req.Until))
	return nil
}

// ResumeUpdates ends a pause.
func (c *CLI) ResumeUpdates(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if _, err := unary(ctx, api.Updates.ResumeUpdates, &wherryv1.ResumeUpdatesRequest{}); err != nil {
		return c.updateError(err)
	}
	c.notef("machine %s updates by itself again, as its configuration says", c.machine.Name)
	return nil
}
