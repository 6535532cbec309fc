// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// server stands between the machine and its repository.
type server struct {
	guest string // its url for the machine

	mu     sync.Mutex
	attack *attack
	sent   int64 // by the attack
}

// attack is what the server does instead of sending one file.
type attack struct {
	name string
	file string // the end of its path
	// news publishes something before, so that more than the timestamp is asked for.
	news bool
	do   http.HandlerFunc
	// apply brings the machine to ask for the OS file too.
	apply bool
	// says is what the machine answers with, within limit.
	says  string
	limit time.Duration
}

func serve(t *testing.T, honest string) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := &server{guest: "http://" + net.JoinHostPort("10.0.2.2", port)}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: honest})
	h := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		a := s.attack
		s.mu.Unlock()
		if a != nil && strings.HasSuffix(r.URL.Path, a.file) {
			a.do(&counted{w, s}, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})}
	go h.Serve(l) // until it is closed
	t.Cleanup(func() { h.Close() })
	return s
}

// counted counts what the attack got rid of.
type counted struct {
	http.ResponseWriter
	s *server
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.sent += int64(n)
	return n, err
}

func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// use begins an attack, or none, and returns what the one before sent.
func (s *server) use(a *attack) (sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent = s.sent
	s.attack, s.sent = a, 0
	return sent
}

// huge sends 10 GB.
func huge(w http.ResponseWriter, r *http.Request) {
	const size = 10e9
	w.Header().Set("Content-Length", fmt.Sprint(int64(size)))
	junk := []byte(strings.Repeat("x", 64<<10))
	for n := 0; n < size && r.Context().Err() == nil; n += len(junk) {
		if _, err := w.Write(junk); err != nil {
			return
		}
	}
}

// drip sends a byte now and then.
func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush() // the next write tells
		time.Sleep(200 * time.Millisecond)
	}
}

func body(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(data) }
}

// short says that 30 MB come, and ends after 3: also when it is asked for the rest.
func short(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "30000000")
	w.Write(make([]byte, 3e6))
}

const (
	soon = time.Minute
	// slow is the machine's patience with a file that does not come, and some.
	slow = 3 * time.Minute
)

func attacks(older []byte, elsewhere string) []attack {
	redirect := func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, http.StatusFound) }
	return []attack{
		{"10 GB of metadata", "/timestamp.json", false, huge, false, `timestamp.*larger than it may be`, soon},
		{"metadata that drips", "/timestamp.json", false, drip, false, `timestamp.*too slow`, slow},
		{"metadata from elsewhere", "/timestamp.json", false, redirect, false, `timestamp.*redirected elsewhere`, soon},
		{"metadata of last week", "/timestamp.json", false, body(older), false, `older than what was seen before.*timestamp`, soon},
		{"metadata of a wrong length", ".targets.json", true, body([]byte("{}")), false, `targets\.json.*not the file that was signed|not the file that was signed.*targets\.json`, soon},
		{"an OS file of 10 GB", "wherry.efi", false, huge, true, `wherry\.efi.*not the file that was signed`, slow},
		{"an OS file that ends early", "wherry.efi", false, short, true, `wherry\.efi.*interrupted`, slow},
		{"an OS file from elsewhere", "wherry.efi", false, redirect, true, `wherry\.efi.*redirected elsewhere`, soon},
	}
}

// hostile lets the repository do its worst, and then what it should.
func (g *rig) hostile() {
	other := listen(g.t)
	older := fetch(g.t, "http://"+g.p.Addr+"/metadata/timestamp.json")
	target := g.release("none")
	g.Run("machine", "update", "check")
	before := g.cost()
	for _, a := range attacks(older, "http://"+net.JoinHostPort("10.0.2.2", other.port)+"/x") {
		if a.news {
			target = g.release("none")
		}
		g.suffer(a)
	}
	if n := other.asked(); n > 0 {
		g.t.Errorf("the other server was asked %d times", n)
	}
	u := g.status()
	if u.Phase != "idle" || u.running() != firstRelease || len(u.Slots) != 1 || len(u.Avoided) > 0 {
		g.t.Errorf("after all attacks: %+v", u)
	}
	after := g.cost()
	g.t.Logf("before all attacks %+v, after %+v", before, after)
	// What came of the OS file may be kept, to go on from there.
	if after.memory < before.memory-48e6 || after.disk < before.disk-40e6 {
		g.t.Errorf("the machine had %+v free, and now %+v", before, after)
	}
	g.await("the release is offered", func() error { return g.offered(target) })
}

// suffer is one attack.
func (g *rig) suffer(a attack) {
	g.t.Helper()
	g.web.use(&a)
	verb := "check"
	if a.apply {
		verb = "apply"
	}
	begin := time.Now()
	r := g.Try("machine", "update", verb)
	for strings.Contains(r.Stderr, "another update is under way (automatic)") { // it looks by itself after it was asked to
		begin = time.Now()
		r = g.Try("machine", "update", verb)
	}
	took, sent := time.Since(begin), g.web.use(nil)
	g.t.Logf("%s: %.1f s, %d KB sent: %s", a.name, took.Seconds(), sent>>10, strings.TrimSpace(r.Stderr))
	if r.Code != 1 || !regexp.MustCompile(`(?s)`+a.says).MatchString(r.Stderr) {
		g.t.Errorf("%s: exit code %d, not told %q: %s", a.name, r.Code, a.says, r.Stderr)
	}
	// What lies in sockets on the way counts as sent.
	if most := int64(48 << 20); took > a.limit || sent > most {
		g.t.Errorf("%s took %v and %d MB", a.name, took, sent>>20)
	}
}

// free is what the machine has left.
type free struct{ memory, disk int64 }

func (g *rig) cost() free {
	g.t.Helper()
	var s struct {
		Memory struct{ AvailableBytes json.Number }
		State  struct{ FreeBytes json.Number }
	}
	if err := json.Unmarshal([]byte(g.Run("status", "-o", "json")), &s); err != nil {
		g.t.Fatal(err)
	}
	f := free{bytesOf(s.Memory.AvailableBytes), bytesOf(s.State.FreeBytes)}
	if f.memory == 0 || f.disk == 0 {
		g.t.Fatalf("the status does not tell what is free: %+v", f)
	}
	return f
}

// ear is a server that nobody should ask.
type ear struct {
	port string
	mu   sync.Mutex
	n    int
}

func listen(t *testing.T) *ear {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	e := &ear{}
	_, e.port, _ = net.SplitHostPort(l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			c.Close()
			e.mu.Lock()
			e.n++
			e.mu.Unlock()
		}
	}()
	return e
}

func (e *ear) asked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.n
}

func fetch(t *testing.T, from string) []byte {
	t.Helper()
	resp, err := http.Get(from)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", from, resp.Status, err)
	}
	return data
}
