// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

const (
	healthResults = 5
	healthOutput  = 4096
)

// watchHealth checks a run until it ends. As docker's: the state is shown and
// told, nothing is restarted for it.
func (e *Engine) watchHealth(ctx context.Context, c *container, r *run) {
	h := c.record().Effective.Health
	failures := uint32(0)
	for {
		select {
		case <-time.After(h.Interval.AsDuration()):
		case <-ctx.Done():
			return
		}
		if c.record().State.Phase == phasePaused {
			continue // frozen processes answer nothing, which says nothing
		}
		result := e.checkOnce(ctx, c, r, h)
		if ctx.Err() != nil {
			return
		}
		before := c.record().State.Health
		after, n := judgeHealth(before, failures, h, result.ExitCode, time.Since(r.began))
		failures = n
		e.noteHealth(c, before, after, result)
	}
}

// judgeHealth is the state after one more result. Failures in the start period
// do not count until the container has been healthy once.
func judgeHealth(before wherryv1.HealthState, failures uint32, h *wherryv1.HealthCheck, code int32, age time.Duration) (wherryv1.HealthState, uint32) {
	switch {
	case code == 0:
		return wherryv1.HealthState_HEALTH_STATE_HEALTHY, 0
	case before == wherryv1.HealthState_HEALTH_STATE_STARTING && age < h.StartPeriod.AsDuration():
		return before, 0
	case failures+1 >= h.Retries:
		return wherryv1.HealthState_HEALTH_STATE_UNHEALTHY, failures + 1
	}
	return before, failures + 1
}

// noteHealth keeps results in memory alone and writes the record when the state turns.
func (e *Engine) noteHealth(c *container, before, after wherryv1.HealthState, result *wherryv1.HealthResult) {
	apply := func(r *record) {
		log := append(r.State.HealthLog, result)
		r.State.HealthLog = log[max(0, len(log)-healthResults):]
		r.State.Health = after
	}
	if before == after {
		c.note(apply)
		return
	}
	e.logFailure("record a container's health", c.id, c.change(apply))
	name := map[wherryv1.HealthState]string{wherryv1.HealthState_HEALTH_STATE_HEALTHY: "healthy", wherryv1.HealthState_HEALTH_STATE_UNHEALTHY: "unhealthy"}[after]
	e.publish(c, "health", map[string]string{"state": name})
}

// checkOnce runs the check as a command in the container.
func (e *Engine) checkOnce(ctx context.Context, c *container, r *run, h *wherryv1.HealthCheck) *wherryv1.HealthResult {
	args := h.Test[1:]
	if h.Test[0] == "CMD-SHELL" {
		args = []string{"/bin/sh", "-c", h.Test[1]}
	}
	ctx, cancel := context.WithTimeout(ctx, h.Timeout.AsDuration())
	defer cancel()
	res := &wherryv1.HealthResult{Start: timestamppb.Now(), ExitCode: -1}
	var out []byte
	err := e.execInside(ctx, c, r, args, func(m *wherryv1.ExecResponse) error {
		switch m := m.Message.(type) {
		case *wherryv1.ExecResponse_Stdout:
			out = appendBounded(out, m.Stdout)
		case *wherryv1.ExecResponse_Stderr:
			out = appendBounded(out, m.Stderr)
		case *wherryv1.ExecResponse_ExitCode:
			res.ExitCode = m.ExitCode
		}
		return nil
	})
	res.End = timestamppb.Now()
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		res.ExitCode = -1
		out = appendBounded(out, []byte("the check took longer than "+h.Timeout.AsDuration().String()))
	case err != nil:
		out = appendBounded(out, []byte(err.Error()))
	}
	res.Output = validText(out)
	return res
}

func appendBounded(b, more []byte) []byte {
	return append(b, more[:min(len(more), max(0, healthOutput-len(b)))]...)
}
