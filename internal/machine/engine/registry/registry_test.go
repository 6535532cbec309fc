// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/config"
)

func TestEntry(t *testing.T) {
	all := []config.Registry{
		{Host: "*", PlainHTTP: true, Username: "u", Password: "p", CA: "ca", Mirrors: []string{"m"}},
		{Host: "Named:5000", PlainHTTP: true, Username: "n"},
	}
	if e := entry(all, "named:5000"); !e.PlainHTTP || e.Username != "n" || e.CA != "" {
		t.Errorf("named: %+v", e)
	}
	// Neither credentials nor plain HTTP for whoever happens to be asked.
	if e := entry(all, "other"); e.PlainHTTP || e.Username != "" || e.Password != "" || e.CA != "ca" || len(e.Mirrors) != 1 {
		t.Errorf("other: %+v", e)
	}
	if e := entry(nil, "other"); e.PlainHTTP || e.Host != "other" {
		t.Errorf("unknown: %+v", e)
	}
}

func TestAllow(t *testing.T) {
	g := &guard{registries: []config.Registry{{Host: "plain:5000", PlainHTTP: true}}}
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"", "https://any/x", true},
		{"", "http://plain:5000/x", true},
		{"", "http://plain/x", false},
		{"", "http://127.0.0.1/x", false},
		{"http://plain:5000/", "https://any/x", true},
		{"https://any/", "http://plain:5000/x", false},
		{"http://plain:5000/", "http://other/x", false},
		{"https://any/", "file:///etc/shadow", false},
		{"https://any/", "unix:///x", false},
		{"https://any/", "/x", false},
	} {
		to, err := url.Parse(c.to)
		if err != nil {
			t.Fatal(err)
		}
		req := &http.Request{URL: to}
		if c.from != "" {
			from, err := url.Parse(c.from)
			if err != nil {
				t.Fatal(err)
			}
			req.Response = &http.Response{Request: &http.Request{URL: from}}
		}
		if err := g.allow(req); (err == nil) != c.ok {
			t.Errorf("%s → %s: %v", c.from, c.to, err)
		}
	}
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	got := make(chan string, 10)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- r.Header.Get("Authorization") }))
	defer other.Close()
	first := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer first.Close()
	host := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }
	o := Options{Host: host(first), Registries: []config.Registry{{Host: host(first), PlainHTTP: true}, {Host: host(other), PlainHTTP: true}},
		Auth: Auth{RegistryToken: "secret"}, Timeouts: Timeouts{}.withDefaults()}
	hosts, err := hostsOf(o)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, first.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = hosts[0].Header.Clone()
	resp, err := hosts[0].Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if a := <-got; a != "" {
		t.Errorf("the other host was sent %q", a)
	}
	if u, p, err := credentials("a", Auth{Username: "u", Password: "p"})("b"); u != "" || p != "" || err != nil {
		t.Errorf("credentials of a for b: %q %q %v", u, p, err)
	}
}

// TestSlowReaderIsNoSilence: a disk that takes its time must not look like a registry that went away.
func TestSlowReaderIsNoSilence(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 4 {
			io.WriteString(w, strings.Repeat("x", 1000))
			w.(http.Flusher).Flush()
		}
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	o := Options{Registries: []config.Registry{{Host: host, PlainHTTP: true}}, Timeouts: Timeouts{Idle: 50 * time.Millisecond, Dial: time.Second}}
	g, err := newGuard(o, config.Registry{})
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: g}
	resp, err := c.Get(s.URL + "/v2/x/blobs/y")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf, n := make([]byte, 1000), 0
	for {
		time.Sleep(80 * time.Millisecond)
		m, err := resp.Body.Read(buf)
		n += m
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != 4000 {
		t.Errorf("read %d bytes", n)
	}
}

func TestRetryAfter(t *testing.T) {
	answer := func(status int, after string) *http.Response {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {after}}}
	}
	for _, c := range []struct {
		resp *http.Response
		wait time.Duration
		ok   bool
	}{
		{answer(200, ""), 0, false}, {answer(404, ""), 0, false}, {answer(501, ""), 0, false},
		{answer(500, ""), time.Second, true}, {answer(429, "3"), 3 * time.Second, true},
		{answer(503, "86400"), 10 * time.Second, true}, {answer(503, "Fri, 31 Dec 1999"), time.Second, true},
	} {
		if wait, ok := retryAfter(c.resp, time.Second); wait != c.wait || ok != c.ok {
			t.Errorf("%d %v: %s %v", c.resp.StatusCode, c.resp.Header, wait, ok)
		}
	}
}
