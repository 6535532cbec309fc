// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"wherry.example/wherry/config"
)

// guard is the transport that every request of a pull passes, the redirected
// ones too: it decides which addresses may be asked at all, notices silence,
// asks again after 5xx and bounds answers that are kept in memory.
type guard struct {
	next        http.RoundTripper
	registries  []config.Registry
	timeouts    Timeouts
	maxManifest int64
	maxBody     int64 // of any answer; 0: no bound
}

func newGuard(o Options, r config.Registry) (*guard, error) {
	t, err := newTransport(o.Timeouts, r)
	if err != nil {
		return nil, err
	}
	return &guard{next: t, registries: o.Registries, timeouts: o.Timeouts, maxManifest: o.MaxManifest}, nil
}

func (g *guard) bounded(n int64) *guard {
	b := *g
	b.maxBody = n
	return &b
}

// CloseIdleConnections lets http.Client reach the transport below.
func (g *guard) CloseIdleConnections() {
	if t, ok := g.next.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// ErrRefused wraps what is refused on our side: asking again cannot help.
var ErrRefused = errors.New("refused")

// allow refuses addresses by scheme: HTTP only to hosts the configuration names.
func (g *guard) allow(req *http.Request) error {
	from := ""
	if req.Response != nil && req.Response.Request != nil {
		from = req.Response.Request.URL.Scheme
	}
	switch req.URL.Scheme {
	case "https":
		return nil
	case "http":
		if from == "https" {
			return fmt.Errorf("%w: redirect from https to %s", ErrRefused, redact(req.URL))
		}
		if entry(g.registries, req.URL.Host).PlainHTTP {
			return nil
		}
		return fmt.Errorf("%w: plain HTTP to %s, which the configuration's registries do not allow (plainHTTP)", ErrRefused, req.URL.Host)
	default:
		return fmt.Errorf("%w: %s is no https address", ErrRefused, redact(req.URL))
	}
}

const attempts = 4

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.allow(req); err != nil {
		return nil, err
	}
	pause := g.timeouts.Retry
	for i := 1; ; i++ {
		resp, err := g.once(req)
		if err != nil {
			return nil, err
		}
		wait, again := retryAfter(resp, pause)
		if !again || i == attempts || req.Body != nil && req.Body != http.NoBody {
			return g.limit(req, resp)
		}
		resp.Body.Close()
		select {
		case <-time.After(wait):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
		pause *= 2
	}
}

// retryAfter tells whether an answer is worth asking again, and when.
func retryAfter(resp *http.Response, pause time.Duration) (time.Duration, bool) {
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			return min(time.Duration(s)*time.Second, 10*time.Second), true
		}
		return pause, true
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return pause, true
	}
	return 0, false
}

// silence is a host that accepts a request and says nothing. It is no
// net.Error on purpose: what timed out once is not worth five times the wait.
type silence struct {
	host string
	idle time.Duration
}

func (s *silence) Error() string {
	return fmt.Sprintf("%s sent nothing for %s", s.host, s.idle)
}

// IsSilence tells whether the error is a host that stopped sending.
func IsSilence(err error) bool {
	var s *silence
	return errors.As(err, &s)
}

// once sends a request and watches over the answer until its body is closed.
func (g *guard) once(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{idle: g.timeouts.Idle}
	// Connecting has its own time limits, which end before this one.
	w.timer = time.AfterFunc(g.timeouts.Idle+g.timeouts.Dial, func() {
		cancel(&silence{req.URL.Host, w.idle})
	})
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		w.timer.Stop()
		err = causeOf(ctx, err)
		cancel(nil)
		return nil, err
	}
	w.pause()
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: w, ctx: ctx, cancel: cancel}
	return resp, nil
}

func causeOf(ctx context.Context, err error) error {
	var s *silence
	if errors.As(context.Cause(ctx), &s) {
		return s
	}
	return err
}

// watch is the time since the last byte.
type watch struct {
	timer *time.Timer
	idle  time.Duration
	mu    sync.Mutex
	ended bool
}

func (w *watch) touch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(w.idle)
	}
}

// pause stops the clock while the reader is busy elsewhere: a slow disk is not a silent host.
func (w *watch) pause() { w.timer.Stop() }

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
}

type watchedBody struct {
	io.ReadCloser
	watch  *watch
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.touch()
	n, err := b.ReadCloser.Read(p)
	b.watch.pause()
	if err != nil && err != io.EOF {
		err = causeOf(b.ctx, err)
	}
	return n, err
}

func (b *watchedBody) Close() error {
	b.watch.end()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// limit bounds the answers that end up in memory.
func (g *guard) limit(req *http.Request, resp *http.Response) (*http.Response, error) {
	limit, what := g.maxBody, "answer"
	if strings.Contains(req.URL.Path, "/manifests/") {
		limit, what = g.maxManifest, "manifest"
	}
	if resp.StatusCode >= 300 {
		limit, what = 1<<20, "answer"
	}
	if limit == 0 {
		return resp, nil
	}
	tooBig := fmt.Errorf("%w: %s from %s is larger than %d bytes", ErrRefused, what, req.URL.Host, limit)
	if resp.StatusCode < 300 && resp.ContentLength > limit {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: it says %d", tooBig, resp.ContentLength)
	}
	resp.Body = &limitedBody{ReadCloser: resp.Body, left: limit, err: tooBig}
	return resp, nil
}

type limitedBody struct {
	io.ReadCloser
	left int64
	err  error
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.err
	}
	return n, err
}
