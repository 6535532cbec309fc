// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"io"
	"regexp"
	"strings"
	"time"
)

// ChaosCmdline lets KillDaemon do its work.
const ChaosCmdline = "wherry.chaos=console"

var killedLine = regexp.MustCompile(`chaos (killed wherryd \d+|found no wherryd)`)

// KillDaemon ends wherryd by SIGKILL, as a crash would, and returns when that
// is done; PID 1 starts it again. The machine needs ChaosCmdline.
func (m *Machine) KillDaemon() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	before := len(killedLine.FindAllString(m.Console(), -1))
	attached := make(chan error, 1)
	go func() { attached <- m.vm.Attach(ctx, strings.NewReader("kill wherryd\n"), io.Discard) }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if len(killedLine.FindAllString(m.Console(), -1)) > before {
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatal("the machine does not say that wherryd was killed")
		}
	}
	cancel()
	if err := <-attached; err != nil {
		m.t.Fatalf("type on the console: %v", err)
	}
}

// AwaitAPI waits until the machine answers its user again.
func (u *User) AwaitAPI(limit time.Duration) {
	u.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		r := u.Try("ps", "-q")
		if r.Code == 0 {
			return
		}
		if time.Now().After(deadline) {
			u.t.Fatalf("the machine does not answer after %v: %s", limit, r.Stderr)
		}
	}
}
