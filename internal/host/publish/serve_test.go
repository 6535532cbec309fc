// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/release"
)

// serving starts a server of the fixture's repository.
func (f *fixture) serving() (url string, reports *Reports) {
	f.t.Helper()
	reports, err := OpenReports(filepath.Join(f.t.TempDir(), "reports.json"), time.Now)
	f.check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f.check(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	s := &Server{Dir: f.dir, Reports: reports, Now: f.clock, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.Serve(ctx, l) }()
	f.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	return "http://" + l.Addr().String(), reports
}

func get(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServe(t *testing.T) {
	f := newFixture(t)
	f.check(f.publish("12.0.0"))
	f.check(os.WriteFile(filepath.Join(f.dir, "metadata", "secret"), nil, 0o644))
	url, _ := f.serving()
	source, err := release.NewHTTP(url)
	f.check(err)
	r, err := release.Refresh(t.Context(), release.Config{Root: f.root, Source: source, Now: f.clock})
	f.check(err)
	kernel, _ := r.Releases[0].File("kernel")
	f.check(r.Verify(t.Context(), kernel))
	if code, body := get(t, url+"/"+kernel.Location(), "Range", "bytes=7-"); code != 206 || body != "12.0.0" {
		t.Errorf("a range: %d %q", code, body)
	}
	for _, path := range []string{"/.lock", "/metadata/", "/targets/", "/metadata/secret", "/metadata/../.lock", "/metadata/..%2f.lock", "/targets/releases/12.0.0/", "/report", "/metadata/9.root.json"} {
		if code, body := get(t, url+path); code == 200 {
			t.Errorf("%s is served: %q", path, body)
		}
	}
}

func report(id int, change func(*release.Report)) release.Report {
	r := release.Report{ID: release.ReportID(fmt.Sprint(id)), Version: release.Version{Days: 12}, Edition: "core", Arch: "amd64", Channel: release.Alpha, State: release.StateCommitted}
	if change != nil {
		change(&r)
	}
	return r
}

func TestStatusPage(t *testing.T) {
	f := newFixture(t)
	f.check(f.publish("12.0.0"))
	f.check(f.publish("12.1.0"))
	url, reports := f.serving()
	source, err := release.NewHTTP(url)
	f.check(err)
	v := f.version("12.1.0")
	for i, change := range []func(*release.Report){
		nil,
		func(r *release.Report) { r.Version = v },
		func(r *release.Report) { r.State, r.Target = release.StateTrying, &v },
		func(r *release.Report) {
			r.State, r.Target, r.Reason = release.StateRolledBack, &v, "<script>alert(1)</script> redis is not healthy"
		},
		func(r *release.Report) {
			r.State, r.Target, r.Reason, r.ByHand = release.StateRolledBack, &v, "by hand", true
		},
	} {
		f.check(source.Report(t.Context(), report(i, change)))
		f.check(source.Report(t.Context(), report(i, change))) // again: it counts once
	}
	_, body := get(t, url+"/status.json")
	var s Status
	f.check(json.Unmarshal([]byte(body), &s))
	if s.Machines != 5 || len(s.Rollouts) != 2 || len(s.Failures) != 1 || s.Failures[0].Machines != 1 {
		t.Fatalf("%+v", s)
	}
	if r := s.Rollouts[0]; r.Version != v || r.Machines != 5 || r.Running != 1 || r.Trying != 1 || r.Failed != 1 || r.ByHand != 1 {
		t.Errorf("%+v", r)
	}
	_, html := get(t, url+"/")
	if !strings.Contains(html, "<td>5<td>1<td>1<td>1<td>1\n") || !strings.Contains(html, "redis is not healthy") || strings.Contains(html, "<script>") {
		t.Errorf("the page: %s", html)
	}
	f.check(reports.Save())
	again, err := OpenReports(reports.file, time.Now)
	f.check(err)
	if len(again.List()) != 5 {
		t.Errorf("%d reports were kept", len(again.List()))
	}
}

func TestHostileReports(t *testing.T) {
	f := newFixture(t)
	url, reports := f.serving()
	post := func(body []byte) int {
		resp, err := http.Post(url+"/report", "application/json", bytes.NewReader(body))
		f.check(err)
		resp.Body.Close()
		return resp.StatusCode
	}
	good, err := json.Marshal(report(1, nil))
	f.check(err)
	for name, body := range map[string][]byte{
		"empty": {}, "null": []byte("null"), "no json": []byte("{"), "huge": bytes.Repeat([]byte(" "), 1<<20),
		"id":      bytes.Replace(good, []byte(release.ReportID("1")), []byte("../../x"), 1),
		"channel": bytes.Replace(good, []byte("alpha"), []byte("gamma"), 1),
		"state":   bytes.Replace(good, []byte("committed"), []byte("hacked"), 1),
		"version": bytes.Replace(good, []byte("12.0.0"), []byte("12"), 1),
		"reason":  bytes.Replace(good, []byte("}"), []byte(`,"reason":"`+strings.Repeat("x", 600)+`"}`), 1),
	} {
		if code := post(body); code < 400 {
			t.Errorf("%s: %d", name, code)
		}
	}
	limited := false
	for range 2 * perMinute {
		limited = limited || post(good) == http.StatusTooManyRequests
	}
	if !limited || len(reports.List()) != 1 {
		t.Errorf("limited: %v, %d reports", limited, len(reports.List()))
	}
}

// However many ids are invented, the file stays small, and the newest are kept.
func TestReportsAreBounded(t *testing.T) {
	now := start
	r, err := OpenReports(filepath.Join(t.TempDir(), "reports.json"), func() time.Time { now = now.Add(time.Second); return now })
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxReports + 50 {
		r.add(report(i, func(r *release.Report) { r.Reason = strings.Repeat("x", 500) }))
	}
	if err := r.Save(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(r.file)
	if err != nil || info.Size() > maxReportsFile {
		t.Errorf("%v %v", info, err)
	}
	again, err := OpenReports(r.file, time.Now)
	if err != nil || len(again.List()) != maxReports || again.List()[0].Report.ID != report(maxReports+49, nil).ID {
		t.Errorf("%d reports, %v", len(again.List()), err)
	}
	for i := range 2 * maxSenders {
		r.allowed(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}))
	}
	if len(r.senders) > maxSenders {
		t.Errorf("%d senders", len(r.senders))
	}
	if err := os.WriteFile(r.file, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := OpenReports(r.file, time.Now); err != nil || len(again.List()) != 0 {
		t.Errorf("a damaged file: %v", err)
	}
}
