// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package attest answers who asks the machine to prove what it booted.
//
// It owns nothing: the attestation key is made anew in the TPM for each answer,
// always the same one, since a TPM derives it from a template and a secret of
// its own. It reads the TPM, the firmware's event log and the machine's key,
// which signs that this attestation key and this quote are the machine's. One
// answer is made at a time, because TPMs are slow and have little room; who
// waits leaves with its context. Without a TPM, or with one that refuses, the
// caller gets an error that says so and nothing else of the machine suffers.
package attest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/attestation"
	"wherry.example/wherry/internal/format/tpm2"
	"wherry.example/wherry/internal/linux/tpm"
)

// TPM is what an answer needs of a TPM.
type TPM interface {
	Quote(nonce []byte, s tpm2.Selection) (tpm.Quoted, error)
	PCRs(s tpm2.Selection) (map[int][32]byte, error)
	Close() error
}

// Options is what an Attester is made of.
type Options struct {
	Key     crypto.Signer // the machine's, Ed25519
	Version string        // the release that it says it runs
	// Open opens the TPM; nil: the kernel's. EventLog is the log's file; empty: the kernel's.
	Open     func() (TPM, error)
	EventLog string
}

// Attester makes attestations.
type Attester struct {
	o    Options
	busy chan struct{}
}

// New makes an Attester.
func New(o Options) *Attester {
	if o.Open == nil {
		o.Open = func() (TPM, error) { return tpm.Open() }
	}
	if o.EventLog == "" {
		o.EventLog = tpm.EventLog
	}
	return &Attester{o, make(chan struct{}, 1)}
}

// quoteTries: a register that changes between reading and quoting is rare, and twice is a fault.
const quoteTries = 3

// Attest answers a caller that chose a nonce.
func (a *Attester) Attest(ctx context.Context, nonce []byte) (*wherryv1.Attestation, error) {
	if len(nonce) < attestation.MinNonce || len(nonce) > attestation.MaxNonce {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a nonce of %d bytes: want %d to %d", len(nonce), attestation.MinNonce, attestation.MaxNonce))
	}
	select {
	case a.busy <- struct{}{}:
		defer func() { <-a.busy }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	t, err := a.o.Open()
	if errors.Is(err, tpm.ErrNone) {
		return nil, errdefs.ErrFailedPrecondition.WithMessage("this machine has no TPM 2.0, so it can't prove what it booted: a virtual machine gets one with `wherry vm start --disk-image FILE --tpm`, a computer in its firmware's settings")
	}
	if err != nil {
		return nil, err
	}
	out, err := a.answer(t, nonce)
	return out, errors.Join(err, t.Close())
}

func (a *Attester) answer(t TPM, nonce []byte) (*wherryv1.Attestation, error) {
	quoted, values, err := consistent(t, nonce)
	if err != nil {
		return nil, err
	}
	log, err := tpm.ReadEventLog(a.o.EventLog, attestation.MaxEventLog)
	if err != nil {
		return nil, err
	}
	public, ok := a.o.Key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("attest: the machine's key is a %T, not an Ed25519 key", a.o.Key.Public())
	}
	binding, err := a.o.Key.Sign(nil, attestation.Statement(quoted.Key, quoted.Quote), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("sign with the machine's key: %w", err)
	}
	out := &wherryv1.Attestation{
		Format: attestation.Format, MachineKey: public, AttestationKey: quoted.Key, Binding: binding,
		Quote: quoted.Quote, QuoteSignature: quoted.Signature, EventLog: log, Version: a.o.Version,
	}
	for _, n := range attestation.Selection.List() {
		v := values[n]
		out.Pcrs = append(out.Pcrs, &wherryv1.PCR{Index: uint32(n), Value: v[:]})
	}
	return out, nil
}

// consistent quotes until the quote is of the values that were read.
func consistent(t TPM, nonce []byte) (tpm.Quoted, map[int][32]byte, error) {
	for range quoteTries {
		values, err := t.PCRs(attestation.Selection)
		if err != nil {
			return tpm.Quoted{}, nil, err
		}
		quoted, err := t.Quote(nonce, attestation.Selection)
		if err != nil {
			return quoted, nil, err
		}
		q, err := tpm2.ParseQuote(quoted.Quote)
		if err != nil {
			return quoted, nil, err
		}
		if digest, ok := attestation.Selection.DigestOf(values); ok && bytes.Equal(digest[:], q.Digest) {
			return quoted, values, nil
		}
	}
	return tpm.Quoted{}, nil, errors.New("the TPM's registers do not hold still")
}
