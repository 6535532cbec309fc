// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package client is the Go voice of a machine's API.
//
// Dial connects with TLS 1.3 and proves the caller's SSH key; the machine is
// believed by its own key alone, which the caller's VerifyKey accepts or not
// before any request is sent. The fields of Client are Connect's typed clients
// for the services. Nothing is retried: whether a call may be made twice is
// the caller's to know. A connection that has gone silent is found by pings.
// Probe asks who a machine says it is, for a first contact.
package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/api/wherryv1/wherryv1connect"
	"wherry.example/wherry/internal/sshkey"
)

// DefaultPort is where machines listen.
const DefaultPort = "9473"

// ExitCodeHeader is set on errors of calls that could not start a process.
const ExitCodeHeader = "Wherry-Exit-Code"

const (
	dialTimeout = 20 * time.Second
	pingAfter   = 15 * time.Second
	pingTimeout = 15 * time.Second
	// maxMessage bounds what a machine may send at once.
	maxMessage = 16 << 20
)

// Options says how to reach one machine.
type Options struct {
	// Address is host or host:port.
	Address string
	// Identity is the caller's key; nil asks as a stranger, who may learn the version.
	Identity crypto.Signer
	// VerifyKey accepts the machine's key, by its SHA256:… fingerprint, or says why not. It must not be nil.
	VerifyKey func(fingerprint string) error
	// DialContext replaces the network's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client talks to one machine. It is safe for concurrent use.
type Client struct {
	Containers wherryv1connect.ContainerServiceClient
	Images     wherryv1connect.ImageServiceClient
	Volumes    wherryv1connect.VolumeServiceClient
	Networks   wherryv1connect.NetworkServiceClient
	Machine    wherryv1connect.MachineServiceClient
	Updates    wherryv1connect.UpdateServiceClient
	Install    wherryv1connect.InstallServiceClient
	Attest     wherryv1connect.AttestServiceClient

	transport *http.Transport
	address   string
}

// KeyError says that the machine's key was not accepted.
type KeyError struct {
	Fingerprint string
	Err         error
}

func (e *KeyError) Error() string { return e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// Dial connects to a machine and checks its key. It does not say whether the
// machine knows the caller: WhoAmI does.
func Dial(ctx context.Context, o Options) (*Client, error) {
	address, err := Address(o.Address)
	if err != nil {
		return nil, err
	}
	if o.VerifyKey == nil {
		return nil, errors.New("connect to a machine: Options.VerifyKey is missing")
	}
	config, err := tlsConfig(o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	c := newClient(address, o, config)
	// One small call makes the connection, so that a wrong address, a wrong key
	// and something that is not a machine are found here.
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := c.Machine.GetVersion(ctx, connect.NewRequest(&wherryv1.GetVersionRequest{})); err != nil {
		c.Close()
		return nil, explain(address, err)
	}
	return c, nil
}

// Close ends the connections that no call uses.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Address is the machine's, with port.
func (c *Client) Address() string { return c.address }

// Address completes an address with the default port.
func Address(address string) (string, error) {
	if address == "" {
		return "", errors.New("the machine's address is empty")
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil { // no port
		host, port = address, DefaultPort
		if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
			host = host[1 : len(host)-1]
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", fmt.Errorf("%q is not an address: want host or host:port", address)
	}
	joined := net.JoinHostPort(host, port)
	if u, err := url.Parse("https://" + joined); err != nil || u.Host != joined {
		return "", fmt.Errorf("%q is not an address: want host or host:port", address)
	}
	return joined, nil
}

func tlsConfig(o Options) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// No authority vouches for a machine: its key does, which VerifyConnection looks at.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			fingerprint, err := sshkey.Peer(&state)
			if err == nil && fingerprint == "" {
				err = errors.New("it shows no key")
			}
			if err != nil {
				return &KeyError{Err: fmt.Errorf("this is not a Wherry machine: %w", err)}
			}
			if err := o.VerifyKey(fingerprint); err != nil {
				return &KeyError{fingerprint, err}
			}
			return nil
		},
	}
	if o.Identity == nil {
		return config, nil
	}
	cert, err := sshkey.Certificate(o.Identity, "wherry")
	if err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return config, nil
}

func newClient(address string, o Options, config *tls.Config) *Client {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	t := &http.Transport{
		DialContext:         o.DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: dialTimeout,
		Protocols:           &protocols,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	if t.DialContext == nil {
		t.DialContext = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	base := "https://" + address
	hc := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a machine does not redirect") }}
	options := []connect.ClientOption{connect.WithReadMaxBytes(maxMessage)}
	return &Client{
		// Terminals, logs and archives are better sent as they are than late or twice compressed.
		Containers: wherryv1connect.NewContainerServiceClient(hc, base, append(options, connect.WithAcceptCompression("gzip", nil, nil))...),
		Images:     wherryv1connect.NewImageServiceClient(hc, base, options...),
		Volumes:    wherryv1connect.NewVolumeServiceClient(hc, base, options...),
		Networks:   wherryv1connect.NewNetworkServiceClient(hc, base, options...),
		Machine:    wherryv1connect.NewMachineServiceClient(hc, base, options...),
		Updates:    wherryv1connect.NewUpdateServiceClient(hc, base, options...),
		Install:    wherryv1connect.NewInstallServiceClient(hc, base, options...),
		Attest:     wherryv1connect.NewAttestServiceClient(hc, base, options...),
		transport:  t,
		address:    address,
	}
}

// errProbed ends a probe's handshake before anything is said.
var errProbed = errors.New("only asked for the key")

// Probe returns the fingerprint of the key that answers at an address. Nothing
// has been decided about it then: show it to somebody who knows.
func Probe(ctx context.Context, o Options) (fingerprint string, err error) {
	var once sync.Once
	o.Identity = nil
	o.VerifyKey = func(f string) error {
		once.Do(func() { fingerprint = f })
		return errProbed
	}
	c, err := Dial(ctx, o)
	if err == nil {
		c.Close()
	}
	if errors.Is(err, errProbed) || fingerprint != "" {
		return fingerprint, nil
	}
	return "", err
}

// explain says in plain words why no connection came about.
func explain(address string, err error) error {
	var key *KeyError
	if errors.As(err, &key) {
		return key
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		return fmt.Errorf("connect to %s: what listens there is not a Wherry machine (it does not speak TLS)", address)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("connect to %s: %w (is the machine running, and is the address right?)", address, op.Err)
	}
	if connect.CodeOf(err) == connect.CodeDeadlineExceeded {
		return fmt.Errorf("connect to %s: no answer within %v", address, dialTimeout)
	}
	return fmt.Errorf("connect to %s: %w", address, err)
}
