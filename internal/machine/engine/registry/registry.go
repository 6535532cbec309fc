// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package registry decides how image registries are reached: which hosts are
// asked in which order, with which credentials and certificates, and what of
// their answers is believed.
//
// It owns the HTTP transport of pulls. It reads the configuration's registries
// and, per pull, the caller's credentials; it keeps nothing. HTTPS is always
// used except for hosts that the configuration names with plainHTTP: this holds
// for redirects, token servers and loopback alike, since every request passes
// the same guard. A host that answers nothing for Timeouts.Idle, before or
// during a body, fails the request; 5xx answers are asked again a few times.
// Every failure is an error of the request: nothing is retried for ever.
package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"

	"wherry.example/wherry/config"
)

// Auth is what a caller presents for one pull.
type Auth struct {
	Username      string
	Password      string
	IdentityToken string // an OAuth refresh token
	RegistryToken string // a bearer token, sent as it is
}

func (a Auth) empty() bool { return a == Auth{} }

// Timeouts bound waiting. The zero value takes the defaults.
type Timeouts struct {
	Dial time.Duration // 15 s; also for the TLS handshake
	Idle time.Duration // 30 s without a byte
	// Retry is the first pause before a 5xx answer is asked again; it doubles. 500 ms.
	Retry time.Duration
}

func (t Timeouts) withDefaults() Timeouts {
	if t.Dial == 0 {
		t.Dial = 15 * time.Second
	}
	if t.Idle == 0 {
		t.Idle = 30 * time.Second
	}
	if t.Retry == 0 {
		t.Retry = 500 * time.Millisecond
	}
	return t
}

// Options describe one pull.
type Options struct {
	Registries []config.Registry
	// Host is the registry that the image's name names; Auth is only ever for it.
	Host      string
	Auth      Auth
	Timeouts  Timeouts
	UserAgent string
	// MaxManifest bounds answers that are not blobs. 0: 4 MiB.
	MaxManifest int64
	// SkipMirrors asks the registry itself only.
	SkipMirrors bool
}

// Resolver returns a resolver for the images of one registry.
func Resolver(o Options) (remotes.Resolver, error) {
	o.Timeouts = o.Timeouts.withDefaults()
	if o.MaxManifest == 0 {
		o.MaxManifest = 4 << 20
	}
	hosts, err := hostsOf(o)
	if err != nil {
		return nil, err
	}
	headers := http.Header{}
	if o.UserAgent != "" {
		headers.Set("User-Agent", o.UserAgent)
	}
	return docker.NewResolver(docker.ResolverOptions{
		Headers: headers,
		Hosts: func(host string) ([]docker.RegistryHost, error) {
			if host != o.Host {
				return nil, fmt.Errorf("asked for registry %q in a pull from %q", host, o.Host)
			}
			return hosts, nil
		},
	}), nil
}

// HasMirrors tells whether the registry has mirrors.
func HasMirrors(all []config.Registry, host string) bool { return len(entry(all, host).Mirrors) > 0 }

// hostsOf lists the mirrors in order, then the registry.
func hostsOf(o Options) ([]docker.RegistryHost, error) {
	var hosts []docker.RegistryHost
	if !o.SkipMirrors {
		for _, m := range entry(o.Registries, o.Host).Mirrors {
			name, prefix, _ := strings.Cut(m, "/")
			h, err := hostOf(o, name, prefix, Auth{})
			if err != nil {
				return nil, fmt.Errorf("mirror %s of %s: %w", m, o.Host, err)
			}
			hosts = append(hosts, h)
		}
	}
	h, err := hostOf(o, o.Host, "", o.Auth)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", o.Host, err)
	}
	return append(hosts, h), nil
}

// hostOf is one host with its own transport: certificates and credentials of one are never another's.
func hostOf(o Options, host, prefix string, auth Auth) (docker.RegistryHost, error) {
	r := entry(o.Registries, host)
	g, err := newGuard(o, r)
	if err != nil {
		return docker.RegistryHost{}, err
	}
	address := endpoint(host)
	out := docker.RegistryHost{
		Client:       &http.Client{Transport: g, CheckRedirect: checkRedirect},
		Host:         address,
		Scheme:       "https",
		Path:         path.Join("/v2", prefix),
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
	}
	if r.PlainHTTP {
		out.Scheme = "http"
	}
	if auth.empty() {
		auth = Auth{Username: r.Username, Password: r.Password}
	}
	if auth.RegistryToken != "" {
		out.Header = http.Header{"Authorization": {"Bearer " + auth.RegistryToken}}
		return out, nil
	}
	out.Authorizer = docker.NewDockerAuthorizer(
		docker.WithAuthClient(&http.Client{Transport: g.bounded(1 << 20), CheckRedirect: checkRedirect}),
		docker.WithAuthCreds(credentials(address, auth)))
	return out, nil
}

// credentials answers for one host alone: a redirect's target gets none.
func credentials(host string, a Auth) func(string) (string, string, error) {
	return func(asked string) (string, string, error) {
		if asked != host {
			return "", "", nil
		}
		if a.IdentityToken != "" {
			return "", a.IdentityToken, nil
		}
		return a.Username, a.Password, nil
	}
}

// entry finds a host's settings: its own, else those of "*", else none.
func entry(all []config.Registry, host string) config.Registry {
	found := config.Registry{Host: host}
	for _, r := range all {
		if strings.EqualFold(r.Host, host) {
			return r
		}
		if r.Host == "*" {
			found = r
			// Credentials for every other registry would go to whoever asks for them.
			found.Username, found.Password = "", ""
			// Plain HTTP is only for hosts that are named.
			found.PlainHTTP = false
		}
	}
	return found
}

// endpoint is where a registry's name is served.
func endpoint(host string) string {
	if host == "docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

var errRedirects = errors.New("stopped after 10 redirects")

func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errRedirects
	}
	// A credential in a header goes no further than the host it is for.
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

func newTransport(t Timeouts, r config.Registry) (*http.Transport, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(r.CA)) {
			return nil, errors.New("its ca holds no PEM certificate")
		}
		c.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: t.Dial, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        c,
		TLSHandshakeTimeout:    t.Dial,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
	}, nil
}

func redact(u *url.URL) string {
	c := *u
	if c.RawQuery != "" {
		c.RawQuery = "…"
	}
	return c.Redacted()
}
