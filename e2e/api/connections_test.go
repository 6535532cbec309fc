// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a connection may live that never becomes a call.
const patience = 40 * time.Second

// connections of all kinds that are not calls end by the machine's doing, and
// calls work meanwhile and afterwards.
func (x target) connections(t *testing.T) {
	before := x.established(t)
	var group sync.WaitGroup
	for name, text := range map[string]string{
		"noise":            string(bytes.Repeat([]byte{0xa5, 0, 0xff, '\n'}, 16<<10)),
		"plain HTTP":       "GET /wherry.v1.MachineService/GetStatus HTTP/1.1\r\nHost: x\r\n\r\n",
		"plain HTTP/2":     "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"SSH":              "SSH-2.0-OpenSSH_9.2\r\n",
		"half a handshake": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"a huge record":    "\x16\x03\x01\xff\xff",
		"nothing":          "",
	} {
		group.Go(func() { x.ends(t, name, x.dial(t), text) })
	}
	for name, text := range map[string]string{
		"HTTP/2 noise":    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(bytes.Repeat([]byte{0xff}, 4<<10)),
		"endless headers": "GET / HTTP/1.1\r\nX: " + string(bytes.Repeat([]byte("x"), 256<<10)),
	} {
		group.Go(func() { x.ends(t, name, x.dialTLS(t, name == "HTTP/2 noise"), text) })
	}
	for range 6 {
		group.Go(func() { x.dribble(t) })
	}
	time.Sleep(3 * time.Second)
	x.admin.Run("ps")
	group.Wait()
	x.flood(t)
	waitFor(t, "connections to be closed", func() bool { return x.established(t) <= before+2 })
	x.well(t)
}

func (x target) dial(t *testing.T) net.Conn {
	c, err := net.DialTimeout("tcp", x.m.API(), 10*time.Second)
	if err != nil {
		t.Error(err)
	}
	return c
}

func (x target) dialTLS(t *testing.T, h2 bool) net.Conn {
	config := &tls.Config{InsecureSkipVerify: true}
	if h2 {
		config.NextProtos = []string{"h2"}
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", x.m.API(), config)
	if err != nil {
		t.Error(err)
		return nil
	}
	return c
}

// ends says something and waits for the machine to hang up.
func (x target) ends(t *testing.T, name string, c net.Conn, text string) {
	if c == nil {
		return
	}
	defer c.Close()
	began := time.Now()
	c.SetDeadline(began.Add(patience))
	_, _ = io.WriteString(c, text) // it may be cut off before its end
	_, err := io.Copy(io.Discard, c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s: the machine does not hang up", name)
	}
	t.Logf("%s: ended after %v", name, time.Since(began))
}

// dribble sends a request a byte at a time.
func (x target) dribble(t *testing.T) {
	c := x.dialTLS(t, false)
	if c == nil {
		return
	}
	defer c.Close()
	began := time.Now()
	for _, b := range []byte("POST /wherry.v1.MachineService/GetVersion HTTP/1.1\r\nHost: x\r\nX-Slow: yes\r\n") {
		if _, err := c.Write([]byte{b}); err != nil {
			return
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if time.Since(began) > patience {
			t.Error("a slow caller is waited for")
			return
		}
	}
}

// flood opens more connections than one address may have, from inside of the
// machine, since outside every caller has the one address of QEMU's network. It
// counts just before the machine hangs up on those who say nothing for 10 s. Others
// are served meanwhile. A machine too busy to be flooded in a few seconds hangs up on the first
// before it has met the last: then it only must have refused some.
func (x target) flood(t *testing.T) {
	const many, allowed, quick = 400, 256, 4000
	x.admin.Run("run", "-d", "--name", "flood", "--network", "host", tools, "flood", "127.0.0.1:9473", strconv.Itoa(many), "9.5")
	waitFor(t, "the flood", func() bool { return strings.Contains(x.admin.Run("logs", "flood"), "flooding") })
	x.admin.Run("ps")
	x.admin.Run("wait", "flood")
	out := x.admin.Run("logs", "flood")
	t.Log(out)
	var open, closed, took int
	if _, err := fmt.Sscanf(out, "flooding\nopen %d closed %d begun in %d ms", &open, &closed, &took); err != nil {
		t.Fatalf("the flood says %q: %v", out, err)
	}
	if open+closed != many || closed == 0 || took < quick && open != allowed {
		t.Errorf("of %d connections %d are allowed: %s", many, allowed, out)
	}
	x.admin.Run("rm", "flood")
}

// established counts the machine's connections to its API's port.
func (x target) established(t *testing.T) int {
	t.Helper()
	out := x.admin.Run("run", "--rm", "--network", "host", tools, "cat", "/proc/net/tcp", "/proc/net/tcp6")
	return len(regexp.MustCompile(`(?m)^ *\d+: [0-9A-F]+:2501 [0-9A-F:]+ 01 `).FindAllString(out, -1))
}
