// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package console

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

var demo = Info{Name: "demo", Version: "0.1.0", Addresses: []string{"10.0.2.15", "fd00::5054:ff:fe12:3456"}, Port: 9473,
	Fingerprint: "SHA256:jv2mYNrTxHU8L3wQ8U5N2R0Fz1ixl9f8f2J4mX0u0dE", Persistent: true, StateDevice: "/dev/vda"}

func TestBanner(t *testing.T) {
	trouble := demo
	trouble.Addresses, trouble.Persistent = nil, false
	trouble.Problems = []string{"time: no server answers", "dhcp: \x1b[2Jevil\r\nserver " + strings.Repeat("x", 100)}
	for name, c := range map[string]struct {
		info Info
		want string
	}{
		"well": {demo, `
  Wherry 0.1.0 on demo

  address    10.0.2.15:9473
             [fd00::5054:ff:fe12:3456]:9473
  key        SHA256:jv2mYNrTxHU8L3wQ8U5N2R0Fz1ixl9f8f2J4mX0u0dE
  state      persistent, on /dev/vda

`},
		"in trouble": {trouble, `
  Wherry 0.1.0 on demo

  address    none yet
  key        SHA256:jv2mYNrTxHU8L3wQ8U5N2R0Fz1ixl9f8f2J4mX0u0dE
  state      in memory: nothing outlives a restart
  problem    time: no server answers
  problem    dhcp: [2Jevilserver xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…

`},
	} {
		if diff := cmp.Diff(c.want, banner(c.info)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestBannerIsBounded prints no more than a screen, whatever there is.
func TestBannerIsBounded(t *testing.T) {
	i := demo
	for range 500 {
		i.Addresses = append(i.Addresses, "10.0.0.1")
		i.Problems = append(i.Problems, strings.Repeat("y", 1000))
	}
	if n := strings.Count(banner(i), "\n"); n > 24 {
		t.Errorf("%d lines", n)
	}
	for line := range strings.Lines(banner(i)) {
		if n := len([]rune(line)); n > maxLine+1 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestReady(t *testing.T) {
	for _, c := range []struct {
		info Info
		want string
	}{
		{demo, "wherry: ready name=demo api=:9473 key=SHA256:jv2mYNrTxHU8L3wQ8U5N2R0Fz1ixl9f8f2J4mX0u0dE version=0.1.0 state=persistent\n"},
		{Info{Name: "a b\nwherry: ready", Version: "", Port: 1}, "wherry: ready name=a-bwherry:-ready api=:1 key=- version=- state=memory\n"},
	} {
		if got := ready(c.info); got != c.want {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}
}

// TestRunFoldsChanges sends a burst of changes and one that changes nothing: two banners, not twelve.
func TestRunFoldsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := To(&out)
		ctx, cancel := context.WithCancel(t.Context())
		changes := make(chan struct{}, 1)
		info := demo
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx, changes, func() Info { return info }) }()
		synctest.Wait()
		info.Name = "other"
		for range 10 {
			changes <- struct{}{}
			time.Sleep(settle / 4)
		}
		time.Sleep(2 * settle)
		changes <- struct{}{}
		time.Sleep(2 * settle)
		cancel()
		<-done
		if n := strings.Count(out.String(), "Wherry 0.1.0"); n != 2 || !strings.Contains(out.String(), "other") {
			t.Errorf("%d banners:\n%s", n, out.String())
		}
	})
}

// TestRunUnderConstantChange prints even when changes never cease.
func TestRunUnderConstantChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		changes := make(chan struct{}, 1)
		go func() {
			for ctx.Err() == nil {
				select {
				case changes <- struct{}{}:
				default:
				}
				time.Sleep(settle / 2)
			}
		}()
		n := 0
		To(&out).Run(ctx, changes, func() Info { n++; i := demo; i.Port = n; return i })
		time.Sleep(settle) // the other goroutine ends
		if got := strings.Count(out.String(), "Wherry 0.1.0"); got < 10 || got > 40 {
			t.Errorf("%d banners in a minute", got)
		}
	})
}
