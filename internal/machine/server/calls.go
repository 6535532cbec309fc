// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// calls wraps every call that passed the gate: it ends when the caller's role
// does, its error becomes one of Connect's, and a change is written to the log.
type calls struct{ *Server }

func (c *calls) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		endBodyTime(ctx)
		procedure := req.Spec().Procedure
		ctx, done := c.access.guard(ctx, callerFrom(ctx), methods[procedure].role)
		defer done()
		begin := time.Now()
		res, err := next(ctx, req)
		err = c.connectError(ctx, err)
		message, _ := req.Any().(proto.Message)
		c.audit(ctx, procedure, subject(message), begin, err)
		if err != nil {
			return nil, err
		}
		return res, nil
	}
}

func (c *calls) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (c *calls) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		procedure := conn.Spec().Procedure
		ctx, done := c.access.guard(ctx, callerFrom(ctx), methods[procedure].role)
		defer done()
		begin := time.Now()
		first := &firstMessage{StreamingHandlerConn: conn, ctx: ctx}
		err := c.connectError(ctx, next(ctx, first))
		c.audit(ctx, procedure, first.subject, begin, err)
		return err
	}
}

// firstMessage remembers what the first message of a stream was about.
type firstMessage struct {
	connect.StreamingHandlerConn
	ctx     context.Context // of the call, which this lives as long as
	seen    bool
	subject string
}

func (f *firstMessage) Receive(message any) error {
	err := f.StreamingHandlerConn.Receive(message)
	if m, ok := message.(proto.Message); ok && err == nil && !f.seen {
		f.seen, f.subject = true, subject(m)
		endBodyTime(f.ctx)
	}
	return err
}

// audit writes one line for a call that changes something.
func (c *calls) audit(ctx context.Context, procedure, subject string, begin time.Time, err error) {
	if !methods[procedure].changes {
		return
	}
	who := callerFrom(ctx)
	result := "ok"
	if err != nil {
		result = err.Error()
	}
	c.log.Info("call", "audit", true, "who", who.fingerprint, "comment", who.comment, "role", string(who.role),
		"method", shortName(procedure), "subject", subject, "result", result, "ms", time.Since(begin).Milliseconds())
}

// shortName turns "/wherry.v1.ContainerService/Exec" into "Exec".
func shortName(procedure string) string { return procedure[strings.LastIndexByte(procedure, '/')+1:] }

// subjectFields are what a request is about; none of them holds a secret.
var subjectFields = []protoreflect.Name{"container", "name", "image", "path", "signal", "dry_run", "disk", "wipe", "version", "stage_only"}

// subject says what a request is about, looking one level into it (spec, start).
func subject(m proto.Message) string {
	if m == nil {
		return ""
	}
	var parts []string
	collectSubject(m.ProtoReflect(), 1, &parts)
	return strings.Join(parts, " ")
}

func collectSubject(m protoreflect.Message, depth int, parts *[]string) {
	fields := m.Descriptor().Fields()
	for _, name := range subjectFields {
		if f := fields.ByName(name); f != nil && m.Has(f) && f.Kind() != protoreflect.MessageKind {
			*parts = append(*parts, fmt.Sprintf("%s=%.128q", name, m.Get(f).String()))
		}
	}
	for _, name := range []protoreflect.Name{"spec", "start"} {
		if f := fields.ByName(name); f != nil && depth > 0 && f.Kind() == protoreflect.MessageKind && m.Has(f) {
			collectSubject(m.Get(f).Message(), depth-1, parts)
		}
	}
}

// recovered turns a panic into an error for the one caller that met it.
func (s *Server) recovered(_ context.Context, spec connect.Spec, _ http.Header, what any) error {
	s.log.Error("panic in an API call", "method", shortName(spec.Procedure), "panic", fmt.Sprint(what), "stack", string(debug.Stack()))
	return connect.NewError(connect.CodeInternal, errors.New("the machine met an error of its own; its log has the details (wherry machine log)"))
}

type deadlineKey struct{}

// limitBodyTime gives the first message of a call a time to arrive.
func limitBodyTime(ctx context.Context) {
	if rc, ok := ctx.Value(deadlineKey{}).(*http.ResponseController); ok {
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // an error means that the connection is gone
	}
}

// endBodyTime is called when that message is there: the call itself may take long.
func endBodyTime(ctx context.Context) {
	if rc, ok := ctx.Value(deadlineKey{}).(*http.ResponseController); ok {
		_ = rc.SetReadDeadline(time.Time{})
	}
}

// ended says whether a stream's caller is done sending, or gone.
func ended(err error) bool { return err == nil || errors.Is(err, io.EOF) }
