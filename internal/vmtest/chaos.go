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

// ChaosCmdline lets KillDaemon and KillShim do their work.
const ChaosCmdline = "wherry.chaos=console"

var killedLine = regexp.MustCompile(`chaos (killed wherry(d|-shim) \d+|found no wherry)`)

// KillDaemon ends wherryd by SIGKILL, as a crash would, and returns when that
// is done; PID 1 starts it again. The machine needs ChaosCmdline.
func (m *Machine) KillDaemon() {
	m.t.Helper()
	m.kill("wherryd")
}

// KillShim ends the process that holds the containers by SIGKILL, as a crash
// would; wherryd starts it again. The machine needs ChaosCmdline.
func (m *Machine) KillShim() {
	m.t.Helper()
	m.kill("wherry-shim")
}

func (m *Machine) kill(program string) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	defer cancel()
	before := len(killedLine.FindAllString(m.Console(), -1))
	attached := make(chan error, 1)
	go func() { attached <- m.vm.Attach(ctx, strings.NewReader("kill "+program+"\n"), io.Discard) }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if len(killedLine.FindAllString(m.Console(), -1)) > before {
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the machine does not say that %s was killed", program)
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
