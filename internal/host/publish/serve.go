// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"wherry.example/wherry/release"
)

//go:embed page.html
var pageSource string

var page = template.Must(template.New("page").Parse(pageSource))

// Bounds of one client of the server.
const (
	maxConnections = 1024
	writeTime      = time.Minute // for each 32 KiB or so
	saveEvery      = 5 * time.Second
	statusEvery    = 2 * time.Second
)

// Server serves a repository's files, takes reports, and shows how releases
// fare. It changes nothing in the repository and needs no key.
type Server struct {
	Dir     string
	Reports *Reports
	Now     func() time.Time
	Log     *slog.Logger

	mu     sync.Mutex
	status Status
}

// served are the files that machines ask for; nothing else in the folder is shown.
var served = regexp.MustCompile(`^/(metadata/[0-9a-z.]+\.json|targets/releases/[0-9.]+/[a-z0-9_-]+/[0-9a-f]{64}\.[A-Za-z0-9._+-]+)$`)

// Handler answers all requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /status.json", s.statusJSON)
	mux.Handle("POST /report", s.Reports)
	mux.HandleFunc("GET /metadata/", s.file)
	mux.HandleFunc("GET /targets/", s.file)
	return mux
}

// Serve answers until the context ends, and keeps reports as they come.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		WriteTimeout:   2 * time.Minute, // file moves it on as it writes
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(netutil.LimitListener(l, maxConnections)) }()
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.Reports.Save(); err != nil {
				s.Log.Warn("keep reports", "err", err)
			}
		case err := <-done:
			return errors.Join(err, s.Reports.Save())
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if server.Shutdown(end) != nil {
				server.Close() // downloads resume
			}
			return s.Reports.Save()
		}
	}
}

// file serves with ranges. The content of a name never changes, but for timestamp.json.
func (s *Server) file(w http.ResponseWriter, req *http.Request) {
	if !served.MatchString(req.URL.Path) {
		http.NotFound(w, req)
		return
	}
	body, _, err := release.Dir(s.Dir).Open(req.Context(), req.URL.Path[1:], 0)
	if err != nil {
		http.NotFound(w, req)
		return
	}
	defer body.Close()
	content, ok := body.(io.ReadSeeker)
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if filepath.Base(req.URL.Path) == "timestamp.json" {
		w.Header().Set("Cache-Control", "no-cache")
	}
	http.ServeContent(&patient{w, http.NewResponseController(w)}, req, "", time.Time{}, content)
}

// patient gives each piece its time, so that who reads nothing does not hold a
// connection for ever, however large the file is.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	// A connection that cannot have deadlines (in tests) goes without.
	_ = p.control.SetWriteDeadline(time.Now().Add(writeTime))
	return p.ResponseWriter.Write(b)
}

// current is a status that is at most statusEvery old, so that asking is cheap.
func (s *Server) current(ctx context.Context) (Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now().UTC()
	if !s.status.At.IsZero() && now.Sub(s.status.At) < statusEvery {
		return s.status, nil
	}
	root, err := os.ReadFile(filepath.Join(s.Dir, "metadata", "1.root.json"))
	if err != nil {
		return Status{}, err
	}
	read, err := release.Refresh(ctx, release.Config{Root: root, Source: release.Dir(s.Dir), Now: s.Now, Carried: true})
	if err != nil {
		return Status{}, err
	}
	s.status = summarize(read.Releases, s.Reports.List(), now)
	s.status.Expires = read.Expires
	return s.status, nil
}

func (s *Server) page(w http.ResponseWriter, req *http.Request) {
	status, err := s.current(req.Context())
	if err != nil {
		s.unreadable(w, err)
		return
	}
	var b bytes.Buffer
	if err := page.Execute(&b, status); err != nil {
		s.unreadable(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	w.Write(b.Bytes())
}

func (s *Server) statusJSON(w http.ResponseWriter, req *http.Request) {
	status, err := s.current(req.Context())
	if err != nil {
		s.unreadable(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(status) // who asked is gone
}

func (s *Server) unreadable(w http.ResponseWriter, err error) {
	s.Log.Error("read the repository", "err", err)
	http.Error(w, "the repository cannot be read", http.StatusInternalServerError)
}
