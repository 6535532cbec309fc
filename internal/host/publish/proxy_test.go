// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"net/http"
	"strings"
	"testing"
)

func TestSender(t *testing.T) {
	proxies, err := ParseProxies([]string{"127.0.0.1", "10.0.0.0/8", "fd00::/64"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, remote, want string
		header             []string
	}{
		{"no proxy", "192.0.2.1:5", "192.0.2.1", nil},
		{"no proxy, and a header", "192.0.2.1:5", "192.0.2.1", []string{"198.51.100.7"}},
		{"a proxy", "127.0.0.1:5", "198.51.100.7", []string{"198.51.100.7"}},
		{"a proxy that says nothing", "127.0.0.1:5", "127.0.0.1", nil},
		{"what the client wrote itself", "127.0.0.1:5", "198.51.100.7", []string{"203.0.113.9, 198.51.100.7"}},
		{"two proxies", "127.0.0.1:5", "198.51.100.7", []string{"203.0.113.9", "198.51.100.7, 10.1.2.3"}},
		{"proxies only", "127.0.0.1:5", "10.9.9.9", []string{"10.9.9.9, 10.1.2.3"}},
		{"no address", "127.0.0.1:5", "127.0.0.1", []string{"198.51.100.7, unknown"}},
		{"IPv6", "[fd00::2]:5", "2001:db8::1", []string{"2001:db8::1"}},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:5", "198.51.100.7", []string{"::ffff:198.51.100.7"}},
		{"a long way", "127.0.0.1:5", "10.0.0.1", []string{"198.51.100.7" + strings.Repeat(",10.0.0.1", 1000)}},
		{"no sender", "@", "invalid IP", nil},
	} {
		req := &http.Request{RemoteAddr: c.remote, Header: http.Header{"X-Forwarded-For": c.header}}
		if got := proxies.sender(req).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	for _, bad := range []string{"", "localhost", "10.0.0.0/33", "fe80::1%eth0", "10.0.0.1:80"} {
		if p, err := ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
	}
}

// TestReportsBehindAProxy: with the proxy known, one sender's flood does not
// silence the others; unknown, they are one.
func TestReportsBehindAProxy(t *testing.T) {
	for _, known := range []bool{true, false} {
		f := newFixture(t)
		url, reports := f.serving()
		if known {
			reports.Proxies, _ = ParseProxies([]string{"127.0.0.0/8"})
		}
		post := func(from string) int {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/report", strings.NewReader("{}"))
			f.check(err)
			req.Header.Set("X-Forwarded-For", from)
			resp, err := http.DefaultClient.Do(req)
			f.check(err)
			resp.Body.Close()
			return resp.StatusCode
		}
		for range perMinute + 1 {
			post("198.51.100.7")
		}
		if code := post("198.51.100.7"); code != http.StatusTooManyRequests {
			t.Errorf("known %v: the flood is answered with %d", known, code)
		}
		if code := post("198.51.100.8"); (code == http.StatusBadRequest) != known {
			t.Errorf("known %v: another sender is answered with %d", known, code)
		}
	}
}
