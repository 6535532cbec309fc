// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package server is the machine's only door: a handful of Connect services (gRPC,
// gRPC-web and JSON from the same handlers) over TLS 1.3 on one port.
//
// Who calls is decided by the TLS handshake alone: it proves that the caller
// has the private key of the certificate it showed; that public key is looked
// up in the configuration's access.keys, anew for each call. A caller without
// a key, or with one that is not listed, gets the same answer and may call
// GetVersion only. What a role may do is one table (methods.go) that names
// every method; a method without a row is not served. Calls that change
// something leave a line in the log: who, what, result. When access changes,
// calls under way whose key lost its role end at once.
//
// It reads: the access list, through SetAccess. It owns: the listener and the
// machine's key file. It depends on the rest of the machine through the small
// interfaces of parts.go. Everything a caller sends is bounded: connections,
// headers, messages, time to send them. A panic in a handler becomes an
// internal error for that caller; a caller that vanishes ends its call.
package server

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1/wherryv1connect"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

// Port is where machines listen.
const Port = 9473

const (
	handshakeTimeout = 10 * time.Second // also: from the first byte of a request to the end of its headers
	bodyTimeout      = 60 * time.Second // for the message of a unary call
	idleTimeout      = 5 * time.Minute
	pingAfter        = 20 * time.Second // silence on a connection after which it is asked whether it lives
	pingTimeout      = 15 * time.Second
	writeTimeout     = 30 * time.Second // for a caller that takes no bytes at all
	maxHeaderBytes   = 32 << 10
	maxStreams       = 250 // calls at once on one connection
)

// Options is what the server is made of.
type Options struct {
	Key     crypto.Signer // the machine's; see LoadOrCreateKey
	Version string        // release
	Access  config.Access
	Log     *slog.Logger
	// MaxConnections in total and from one address; 0: 512 and 256.
	MaxConnections, MaxConnectionsPerAddress int

	// Classify knows the errors of parts that have kinds of their own: their code,
	// 0 for errors that it does not know, and the exit code that a failed start
	// stands for. Nil: errdefs alone tell kinds.
	Classify func(error) (connect.Code, int)

	Containers Containers
	Images     Images
	Volumes    Volumes
	Networks   Networks
	Machine    Machine
	Install    Install  // nil: its methods are answered as not implemented
	Updates    Updates  // nil: its methods are answered as not implemented
	Attester   Attester // the same
}

// Server answers API calls.
type Server struct {
	opts        Options
	log         *slog.Logger
	access      access
	fingerprint string
	http        *http.Server
}

// New checks the options and the method table. It does not listen yet.
func New(o Options) (*Server, error) {
	if o.Containers == nil || o.Images == nil || o.Volumes == nil || o.Networks == nil || o.Machine == nil || o.Log == nil {
		return nil, errors.New("API server: a part is missing in its options")
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 512
	}
	if o.MaxConnectionsPerAddress == 0 {
		o.MaxConnectionsPerAddress = 256
	}
	cert, err := sshkey.Certificate(o.Key, "wherry")
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	fingerprint, err := sshkey.Fingerprint(o.Key.Public())
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	s := &Server{opts: o, log: o.Log, fingerprint: fingerprint}
	s.SetAccess(o.Access)
	s.http = s.httpServer(cert)
	return s, nil
}

// Fingerprint is the machine's identity, SHA256:….
func (s *Server) Fingerprint() string { return s.fingerprint }

// SetAccess replaces the list of keys. Keys that do not parse are left out and logged.
func (s *Server) SetAccess(a config.Access) {
	for _, err := range s.access.set(a.Keys) {
		s.log.Warn("access key ignored", "error", err)
	}
}

// Listen opens the API's port on all addresses, IPv6 and IPv4.
func Listen(ctx context.Context) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", fmt.Sprintf(":%d", Port))
	if err != nil {
		return nil, fmt.Errorf("listen for API calls: %w", err)
	}
	return l, nil
}

// Serve answers calls on l until ctx ends. It then lets calls under way finish
// for a moment and closes every connection; it returns nil after that.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	l = limitConnections(l, s.opts.MaxConnections, s.opts.MaxConnectionsPerAddress, s.log)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			s.http.Close()
		}
	})
	err := s.http.ServeTLS(l, "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve API calls: %w", err)
}

func (s *Server) httpServer(cert tls.Certificate) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true) // for curl and other JSON callers; streams in both directions need HTTP/2
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           s.handler(),
		Protocols:         &protocols,
		ReadHeaderTimeout: handshakeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(errorLog{s.log}, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     512 << 10,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
			WriteByteTimeout:              writeTimeout,
		},
		TLSConfig: &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{cert},
			// Asks, and lets pass who shows none: those may learn the version. What is shown is proven.
			ClientAuth:             tls.RequestClientCert,
			SessionTicketsDisabled: true, // each connection proves its key itself
		},
	}
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	options := s.handlerOptions()
	for _, h := range []func() (string, http.Handler){
		func() (string, http.Handler) {
			return wherryv1connect.NewContainerServiceHandler(&containers{s.opts.Containers}, options...)
		},
		func() (string, http.Handler) {
			return wherryv1connect.NewImageServiceHandler(&images{s.opts.Images}, options...)
		},
		func() (string, http.Handler) {
			return wherryv1connect.NewVolumeServiceHandler(&volumes{s.opts.Volumes}, options...)
		},
		func() (string, http.Handler) {
			return wherryv1connect.NewNetworkServiceHandler(&networks{s.opts.Networks}, options...)
		},
		func() (string, http.Handler) {
			return wherryv1connect.NewMachineServiceHandler(&machine{Machine: s.opts.Machine, version: s.opts.Version}, options...)
		},
		func() (string, http.Handler) {
			if s.opts.Install == nil {
				return wherryv1connect.NewInstallServiceHandler(wherryv1connect.UnimplementedInstallServiceHandler{}, options...)
			}
			return wherryv1connect.NewInstallServiceHandler(&installs{s.opts.Install}, options...)
		},
		func() (string, http.Handler) {
			if s.opts.Updates == nil {
				return wherryv1connect.NewUpdateServiceHandler(wherryv1connect.UnimplementedUpdateServiceHandler{}, options...)
			}
			return wherryv1connect.NewUpdateServiceHandler(&updates{s.opts.Updates}, options...)
		},
		func() (string, http.Handler) {
			if s.opts.Attester == nil {
				return wherryv1connect.NewAttestServiceHandler(wherryv1connect.UnimplementedAttestServiceHandler{}, options...)
			}
			return wherryv1connect.NewAttestServiceHandler(&attester{s.opts.Attester}, options...)
		},
	} {
		mux.Handle(h())
	}
	return s.identify(mux)
}

// handlerOptions apply to every method: first the gate, before a byte of the
// message is read, then what wraps the call.
func (s *Server) handlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithRequestGate(s.gate),
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			return []connect.HandlerOption{connect.WithReadMaxBytes(methods[spec.Procedure].maxBytes())}
		}),
		connect.WithCompressMinBytes(2 << 10),
		connect.WithInterceptors(&calls{s}),
		connect.WithRecover(s.recovered),
	}
}
