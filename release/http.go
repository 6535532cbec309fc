// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// HTTP is a repository on a web server.
type HTTP struct {
	base   *url.URL
	client *http.Client
}

const maxRedirects = 3

// NewHTTP reads from a base URL, http or https.
func NewHTTP(base string) (*HTTP, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("repository: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("repository %q: want http://HOST/PATH or https://HOST/PATH", base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/"
	h := &HTTP{base: u}
	h.client = &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:    30 * time.Second,
			ResponseHeaderTimeout:  time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true, // a few bytes must not become many
			ForceAttemptHTTP2:      true,
		},
	}
	return h, nil
}

// Trust adds authorities (PEM) to the public ones by which the server may be known.
func (h *HTTP) Trust(pem []byte) error {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("repository %s: its CA is no PEM certificate", h.base.Redacted())
	}
	h.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}
	return nil
}

// checkRedirect stays on the server: a mirror must not make machines ask
// others, those in their own network least of all.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d times", ErrRedirect, maxRedirects)
	}
	first := via[0].URL
	upgrade := first.Scheme == "http" && req.URL.Scheme == "https" && first.Port() == "" && req.URL.Port() == ""
	if req.URL.Hostname() != first.Hostname() || !upgrade && (req.URL.Scheme != first.Scheme || req.URL.Port() != first.Port()) {
		return fmt.Errorf("%w: to %.100s", ErrRedirect, req.URL.Redacted())
	}
	return nil
}

// Open asks for a file, or the rest of it.
func (h *HTTP) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base.JoinPath(name).String(), nil)
	if err != nil {
		return nil, 0, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	start, err := answered(resp, offset)
	if err != nil {
		return nil, 0, errors.Join(err, resp.Body.Close())
	}
	return resp.Body, start, nil
}

// answered tells from which byte on the answer is.
func answered(resp *http.Response, offset int64) (start int64, err error) {
	if e := resp.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return 0, fmt.Errorf("the server encoded the file (%.20q)", e)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return 0, nil
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || offset == 0 || from != offset {
			return 0, fmt.Errorf("the server sent another range (%.40q) than from byte %d on", resp.Header.Get("Content-Range"), offset)
		}
		return from, nil
	case http.StatusNotFound, http.StatusForbidden, http.StatusGone: // buckets say 403 for what is not there
		return 0, fmt.Errorf("the server says %s: %w", resp.Status, fs.ErrNotExist)
	case http.StatusRequestedRangeNotSatisfiable:
		return 0, fmt.Errorf("the server's file has no byte %d: it is cut off", offset)
	}
	return 0, fmt.Errorf("the server says %.80s", resp.Status)
}

// Report tells the repository's status page how this machine fares. Only
// machines whose owners want it do.
func (h *HTTP) Report(ctx context.Context, r Report) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.base.JoinPath("report").String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return fmt.Errorf("report to the repository: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("report to the repository: it says %.80s", resp.Status)
	}
	return nil
}
