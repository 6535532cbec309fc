// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"connectrpc.com/connect"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

// caller is who makes a call. The zero value is somebody without a known key.
type caller struct {
	fingerprint string
	comment     string
	role        config.Role
}

// access is the list of keys in force, and the calls that rely on it.
type access struct {
	mu    sync.Mutex
	keys  map[string]caller
	calls map[*guarded]struct{}
}

// guarded is a call under way.
type guarded struct {
	fingerprint string
	needs       config.Role
	cancel      context.CancelCauseFunc
}

var errRoleLost = connect.NewError(connect.CodeUnauthenticated, errors.New("your key's role was taken away"))

// set replaces the list and ends the calls that it no longer allows.
func (a *access) set(list []config.Key) (problems []error) {
	keys := map[string]caller{}
	for i, k := range list {
		pub, err := sshkey.ParsePublic(k.Key)
		if err != nil {
			problems = append(problems, fmt.Errorf("access.keys[%d]: %w", i, err))
			continue
		}
		role := k.Role
		if role == "" {
			role = config.RoleAdmin
		}
		if ranks[role] == 0 {
			problems = append(problems, fmt.Errorf("access.keys[%d]: unknown role %q", i, role))
			continue
		}
		// The first entry of a key is the one that counts.
		if _, twice := keys[pub.Fingerprint]; !twice {
			keys[pub.Fingerprint] = caller{pub.Fingerprint, pub.Comment, role}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = keys
	for c := range a.calls {
		if !allows(keys[c.fingerprint].role, c.needs) {
			c.cancel(errRoleLost)
		}
	}
	return problems
}

// lookup returns who has the key; the zero caller when nobody has.
func (a *access) lookup(fingerprint string) caller {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keys[fingerprint]
}

// guard returns a context that ends when the caller's key loses the role that the call needs.
func (a *access) guard(ctx context.Context, who caller, needs config.Role) (context.Context, func()) {
	if needs == anybody {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &guarded{who.fingerprint, needs, cancel}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls == nil {
		a.calls = map[*guarded]struct{}{}
	}
	a.calls[g] = struct{}{}
	if !allows(a.keys[who.fingerprint].role, needs) {
		cancel(errRoleLost)
	}
	return ctx, func() {
		a.mu.Lock()
		delete(a.calls, g)
		a.mu.Unlock()
		cancel(nil)
	}
}

type callerKey struct{}

// callerFrom returns who makes the call that ctx belongs to.
func callerFrom(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// identify looks up the key that the TLS handshake proved, for each request:
// the list may have changed since the connection was made.
func (s *Server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var who caller
		if fingerprint, err := sshkey.Peer(r.TLS); err == nil && fingerprint != "" {
			who = s.access.lookup(fingerprint)
		}
		ctx := context.WithValue(r.Context(), callerKey{}, who)
		ctx = context.WithValue(ctx, deadlineKey{}, http.NewResponseController(w))
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// errUnauthenticated is all that a stranger hears, with a key or without.
var errUnauthenticated = errors.New("this machine does not know your key: ask its owner to add your SSH public key to access.keys")

// gate decides before the message is read.
func (s *Server) gate(ctx context.Context, spec connect.Spec, _ connect.Peer, _ http.Header) (context.Context, error) {
	who := callerFrom(ctx)
	m, ok := methods[spec.Procedure]
	switch {
	case ok && allows(who.role, m.role):
		limitBodyTime(ctx)
		return ctx, nil
	case who.role == anybody:
		return nil, connect.NewError(connect.CodeUnauthenticated, errUnauthenticated)
	case !ok:
		return nil, connect.NewError(connect.CodeUnimplemented, errors.New("this machine does not offer that method"))
	}
	// Info, which stays off the console: a caller must not be able to flood it.
	s.log.Info("call refused", "audit", true, "who", who.fingerprint, "comment", who.comment, "method", shortName(spec.Procedure), "role", string(who.role), "needs", string(m.role))
	return nil, connect.NewError(connect.CodePermissionDenied,
		fmt.Errorf("this needs the role %s, your key has the role %s", m.role, who.role))
}
