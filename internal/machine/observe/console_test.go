// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestConsoleLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(NewLog().Handler(slog.LevelInfo, &out))
		log.Info("nobody needs to know")
		log.Warn("the state disk is full", "place", "vda1", "free", 0)
		for range 100 {
			log.With("name", "kept").Warn("engine: restart did not work", "err", errors.New("no space"))
		}
		log.WithGroup("dhcp").Error("bad server", "name", "\x1b[2Jevil\r\nwherry: ready name=x")
		log.Warn(strings.Repeat("x", 1000))
		time.Sleep(repeatAfter)
		log.Warn("the state disk is full", "place", "vda1", "free", 0)
		want := "wherry: warning: the state disk is full (place vda1, free 0)\n" +
			"wherry: warning: engine: restart did not work (name kept): no space\n" +
			"wherry: error: bad server (dhcp.name  [2Jevil wherry: ready name=x)\n" +
			"wherry: warning: " + strings.Repeat("x", maxConsoleLine-1) + "…\n" +
			"wherry: warning: the state disk is full (place vda1, free 0)\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}
