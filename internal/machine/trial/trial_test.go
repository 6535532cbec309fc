// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

// rig is a machine whose parts a test changes while the trial looks at it.
type rig struct {
	*Trial
	fingerprint string
	status      atomic.Int32 // of the API
	containers  atomic.Pointer[[]Container]
	state       atomic.Pointer[wherryv1.StateInfo]
	dir         string

	mu   sync.Mutex
	last Report
}

func newRig(t *testing.T, checks ...config.TrialCheck) *rig {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := sshkey.Certificate(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{dir: t.TempDir()}
	if r.fingerprint, err = sshkey.Fingerprint(key.Public()); err != nil {
		t.Fatal(err)
	}
	r.status.Store(http.StatusOK)
	r.state.Store(&wherryv1.StateInfo{Persistent: true})
	r.run(vessel("a", running, healthy, 1))
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path != "/wherry.v1.MachineService/GetVersion" || req.Method != http.MethodPost {
			t.Errorf("the API was asked %s %s", req.Method, req.URL)
		}
		w.WriteHeader(int(r.status.Load()))
		fmt.Fprint(w, "body of the answer")
	}))
	api.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	api.StartTLS()
	t.Cleanup(api.Close)
	r.Trial, err = New(Options{
		Log: slog.New(slog.DiscardHandler), Stable: 300 * time.Millisecond, StateDir: r.dir,
		Links:       func() []*wherryv1.Link { return []*wherryv1.Link{eth("10.0.2.15/24")} },
		Containers:  func(context.Context) ([]Container, error) { return *r.containers.Load(), nil },
		State:       func() *wherryv1.StateInfo { return r.state.Load() },
		API:         api.Listener.Addr().String(),
		Fingerprint: func() string { return r.fingerprint },
		Exec:        execHere,
		Checks:      func() []config.TrialCheck { return checks },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) run(c ...Container) { r.containers.Store(&c) }

// execHere stands for the engine: "print TEXT CODE" and "hang".
func execHere(ctx context.Context, container string, command []string, output func([]byte)) (int, error) {
	if container != "app" {
		return 0, fmt.Errorf("there is no container %s", container)
	}
	switch command[0] {
	case "print":
		output([]byte(command[1]))
		var code int
		_, err := fmt.Sscan(command[2], &code)
		return code, err
	default:
		output([]byte("waiting"))
		<-ctx.Done()
		return 0, ctx.Err()
	}
}

func (r *rig) wait(t *testing.T, limit time.Duration) error {
	t.Helper()
	before, err := r.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.Wait(t.Context(), before, limit, func(report Report) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.last = report
	})
}

func TestWell(t *testing.T) {
	r := newRig(t)
	if err := r.wait(t, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if len(r.last.Results) != 5 || r.last.Held < 300*time.Millisecond || r.last.Limit != 10*time.Second {
		t.Errorf("the last report: %+v", r.last)
	}
	if left, _ := filepath.Glob(filepath.Join(r.dir, "*")); len(left) > 0 {
		t.Errorf("left in state: %v", left)
	}
}

// With nothing to compare with, what is known without a comparison is checked.
func TestWithoutBaseline(t *testing.T) {
	r := newRig(t)
	for _, before := range []string{"", "{}", "null"} {
		if err := r.Wait(t.Context(), []byte(before), 5*time.Second, func(Report) {}); err != nil {
			t.Errorf("%q: %v", before, err)
		}
	}
	if err := r.Wait(t.Context(), []byte("nonsense"), 5*time.Second, func(Report) {}); err == nil {
		t.Error("a baseline that cannot be read passed")
	}
}

// A machine that needs a while is waited for.
func TestComesLater(t *testing.T) {
	r := newRig(t)
	before, err := r.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.run(vessel("a", restarting, none, 1))
	r.status.Store(http.StatusServiceUnavailable)
	looks := 0
	err = r.Wait(t.Context(), before, 20*time.Second, func(report Report) {
		switch looks++; looks {
		case 2:
			r.run(vessel("a", running, starting, 2))
		case 3:
			r.run(vessel("a", running, healthy, 2))
			r.status.Store(http.StatusOK)
		}
	})
	if err != nil || looks < 4 {
		t.Errorf("after %d looks: %v", looks, err)
	}
}

// Each thing that is not well is named with what it said, and ends the trial.
func TestNotWell(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := other.Addr().String()
	other.Close()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/moved":
			http.Redirect(w, req, "/", http.StatusFound)
		case "/bad":
			http.Error(w, strings.Repeat("the database is away ", 1000), http.StatusInternalServerError)
		}
	}))
	t.Cleanup(web.Close)
	address := strings.TrimPrefix(web.URL, "http://")
	private := httptest.NewTLSServer(http.NotFoundHandler()) // its certificate is nobody's business
	t.Cleanup(private.Close)
	tests := map[string]struct {
		change func(*rig)
		checks []config.TrialCheck
		want   string // empty: all is well
	}{
		"good checks": {nil, []config.TrialCheck{
			{Name: "page", HTTP: config.TrialHTTP{URL: web.URL}}, {Name: "moved", HTTP: config.TrialHTTP{URL: web.URL + "/moved", Status: 302}}, {Name: "bad", HTTP: config.TrialHTTP{URL: web.URL + "/bad", Status: 500}},
			{Name: "private", HTTP: config.TrialHTTP{URL: private.URL, Status: 404}}, {Name: "port", TCP: address}, {Name: "asked", Exec: config.TrialExec{Container: "app", Command: []string{"print", "7\nrows", "0"}}},
		}, ""},
		"redirect":       {nil, []config.TrialCheck{{Name: "page", HTTP: config.TrialHTTP{URL: web.URL + "/moved"}}}, "; check page: it answers 302 Found"},
		"bad status":     {nil, []config.TrialCheck{{Name: "page", HTTP: config.TrialHTTP{URL: web.URL + "/bad"}}}, "; check page: it answers 500 Internal Server Error: the database is away the"},
		"closed port":    {nil, []config.TrialCheck{{Name: "port", TCP: closed}}, "connection refused"},
		"closed web":     {nil, []config.TrialCheck{{Name: "page", HTTP: config.TrialHTTP{URL: "http://" + closed}}}, "connection refused"},
		"exit code":      {nil, []config.TrialCheck{{Name: "asked", Exec: config.TrialExec{Container: "app", Command: []string{"print", "no\nrows", "3"}}}}, "; check asked: it ended with 3: no rows"},
		"no container":   {nil, []config.TrialCheck{{Name: "asked", Exec: config.TrialExec{Container: "gone", Command: []string{"print"}}}}, "; check asked: there is no container gone"},
		"empty check":    {nil, []config.TrialCheck{{Name: "x"}}, "; check x: it names neither"},
		"API refuses":    {func(r *rig) { r.status.Store(500) }, nil, "; API: it answers 500 Internal Server Error: body of the answer"},
		"another key":    {func(r *rig) { r.fingerprint = "SHA256:other" }, nil, "this machine's is SHA256:other; key: the machine's key is SHA256:other, and was"},
		"API away":       {func(r *rig) { r.o.API = closed }, nil, "; API: Post \"https://" + closed},
		"in memory":      {func(r *rig) { r.state.Store(&wherryv1.StateInfo{}) }, nil, "; state: it is in memory, and was on a disk"},
		"read only":      {func(r *rig) { r.o.StateDir = "/proc" }, nil, "; state: open /proc/.trial-"},
		"container gone": {func(r *rig) { r.run() }, nil, "; container name-a: it is gone"},
		"network gone":   {func(r *rig) { r.o.Links = func() []*wherryv1.Link { return nil } }, nil, "; network: eth0 is gone"},
		"engine away": {func(r *rig) {
			r.o.Containers = func(context.Context) ([]Container, error) { return nil, errors.New("the engine is away") }
		}, nil, "; containers: the engine is away"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tt.checks...)
			before, err := r.Baseline(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if tt.change != nil {
				tt.change(r)
			}
			limit := 200 * time.Millisecond
			if tt.want == "" {
				limit = 10 * time.Second
			}
			var last Report
			err = r.Wait(t.Context(), before, limit, func(r Report) { last = r })
			said := ""
			for _, k := range last.Results {
				if k.Well == (tt.want == "") { // what failed, or else what was printed
					said += "; " + k.Name + ": " + k.Message
				}
			}
			want := tt.want
			if want == "" && len(tt.checks) > 0 {
				want = "; check page: 200 OK; check moved: 302 Found; check bad: 500 Internal Server Error; check private: 404 Not Found; check port: ; check asked: 7 rows"
			}
			if !strings.Contains(said, want) {
				t.Errorf("the last report says %q, want %q", said, want)
			}
			var f *Failure
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &f) || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2000):
				t.Errorf("%v, want %q", err, tt.want)
			case f != nil && f.Results[0].Well:
				t.Errorf("told as a failure: %+v", f.Results)
			}
		})
	}
}

// A command that hangs ends with the look, and an end of the machine ends the trial.
func TestEnds(t *testing.T) {
	r := newRig(t, config.TrialCheck{Name: "hangs", Exec: config.TrialExec{Container: "app", Command: []string{"hang"}}})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := r.Wait(ctx, nil, time.Hour, func(Report) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	short, cancelShort := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancelShort()
	if _, err := r.check(short, r.o.Checks()[0]); err == nil || !strings.Contains(err.Error(), "did not end within") || !strings.Contains(err.Error(), "waiting") {
		t.Error(err)
	}
}

// A full disk is not the release's fault; one that cannot be written is.
func TestStateErrors(t *testing.T) {
	for err, forgiven := range map[error]bool{
		nil: true, &os.PathError{Err: unix.ENOSPC}: true, errors.Join(&os.PathError{Err: unix.EDQUOT}): true,
		&os.PathError{Err: unix.EROFS}: false, &os.PathError{Err: unix.EIO}: false, os.ErrNotExist: false,
	} {
		if got := judgeWriting(err); (got == nil) != forgiven {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a trial without parts was made")
	}
}

// Looks that take long leave the machine to its work in between, and come all the same.
func TestRest(t *testing.T) {
	for _, c := range []struct{ pause, took, want time.Duration }{
		{firstPause, time.Millisecond, firstPause},
		{lastPause, time.Second, lastPause},
		{lastPause, 2 * time.Second, 4 * time.Second},
		{lastPause, probeLimit, longestPause},
	} {
		if got := rest(c.pause, c.took); got != c.want {
			t.Errorf("after %v that took %v: %v, want %v", c.pause, c.took, got, c.want)
		}
	}
}
