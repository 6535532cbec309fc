// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// road is the way to the repository. It can be closed: then OS files come no further than their first megabytes.
type road struct {
	guest  string // its url for the machine
	closed atomic.Bool
}

func newRoad(t *testing.T, to string) *road {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := &road{guest: "http://10.0.2.2:" + port}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	proxy.ModifyResponse = func(resp *http.Response) error {
		if strings.HasSuffix(resp.Request.URL.Path, ".efi") {
			resp.Body = &traffic{ReadCloser: resp.Body, r: r, gone: resp.Request.Context().Done()}
		}
		return nil
	}
	s := &http.Server{Handler: proxy}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return r
}

// traffic is a body on the road.
type traffic struct {
	io.ReadCloser
	r    *road
	gone <-chan struct{}
	n    int
}

func (b *traffic) Read(p []byte) (int, error) {
	for b.n > 4<<20 && b.r.closed.Load() {
		select {
		case <-b.gone:
			return 0, io.ErrUnexpectedEOF
		case <-time.After(50 * time.Millisecond):
		}
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), 64<<10)])
	b.n += n
	return n, err
}

// trouble is what a good release meets before it is there.
func trouble(g *rig) {
	good := g.p.Variant(g.next, g.nextVersion(), fixture.Change{Cmdline: "wherry.test=good"})
	g.p.Publish(good)
	refused := func(what, pattern string) {
		g.t.Helper()
		r := g.Try("machine", "update", "apply", "--to", good.Version, "--stage-only")
		if r.Code != 1 {
			g.t.Fatalf("%s: %+v", what, r)
		}
		g.t.Logf("%s: %s", what, r.Stderr)
		g.match(what, r.Stderr, pattern)
		if u := g.status(); u.running() != oldRelease || u.Phase != "idle" || strings.Contains(u.slots(), good.Version) {
			g.t.Errorf("%s: %+v", what, u)
		}
	}

	g.fillState()
	refused("a full state disk", `the state disk has \d+ MB free, and the update needs \d+`)
	g.Run("rm", "-f", "once")

	g.interrupted(good)

	// Ten years ahead nothing of the repository can be believed, until a time server has answered.
	g.fillESP(8 << 20)
	ahead := time.Now().AddDate(10, 0, 0).UTC().Format("2006-01-02T15:04:05")
	g.m.Configure(func(o *vmtest.Options) { o.Args = []string{"-rtc", "base=" + ahead} })
	g.start()
	refused("a clock ten years ahead", `(?is)expired.*clock`)
	g.clock.Wake()
	g.await("the time is known, and the release is offered", func() error { return g.contains(good.Version+" is there", "machine", "update", "check") })

	refused("a full boot partition", `the boot partition has no room`)
	g.works()
	g.stop()
	g.mtools("mdel", "::/filler")
	g.m.Configure(func(o *vmtest.Options) { o.Args = nil })
	g.start()

	g.Run("machine", "update", "apply", "--to", good.Version)
	if u := g.status(); u.running() != good.Version || u.Last.State != "committed" {
		g.t.Errorf("in the end: %+v", u)
	}
	g.works()
	g.runPostgres()
	g.rows()
}

// fillState leaves no byte of the state disk free.
func (g *rig) fillState() {
	g.t.Helper()
	g.Run("start", "once")
	if r := g.Try("exec", "once", "/toybox", "fill", "/all", "4000"); r.Code == 0 || !strings.Contains(r.Stderr, "no space") {
		g.t.Fatalf("fill the state disk: %+v", r)
	}
}

// fillESP leaves that much of the boot partition beside the running release; the machine is off.
func (g *rig) fillESP(free int) {
	g.t.Helper()
	for _, name := range strings.Fields(g.mtools("mdir", "-b", "::/EFI/Linux")) {
		if strings.Contains(name, "wherry_") && !strings.Contains(name, "wherry_"+oldRelease+".efi") {
			g.mtools("mdel", name)
		}
	}
	g.put(make([]byte, g.espFree()-free), "::/filler")
}

// interrupted: who wants an update while another one is under way is told so. The
// machine is switched off in the midst of it, and goes on with it later.
func (g *rig) interrupted(good fixture.Release) {
	g.t.Helper()
	g.road.closed.Store(true)
	defer g.road.closed.Store(false)
	first := g.Command("machine", "update", "apply", "--to", good.Version, "--stage-only")
	var said strings.Builder
	first.Stderr = &said
	if err := first.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.await("the download has begun", func() error { return g.contains("downloading", "machine", "update", "status") })
	second := g.Try("machine", "update", "apply", "--to", good.Version)
	if second.Code != 1 {
		g.t.Errorf("a second update at the same time: %+v", second)
	}
	g.match("the second update", second.Stderr, `another update is under way \(by hand\): downloading \S+, begun at .* by `)
	g.stop()
	if err := first.Wait(); err == nil {
		g.t.Errorf("the update that was cut by a shutdown ended well: %s", said.String())
	}
	if list := g.mtools("mdir", "-b", "::/EFI/Linux"); strings.Contains(list, good.Version) {
		g.t.Errorf("a part of the release is on the boot partition:\n%s", list)
	}
}
