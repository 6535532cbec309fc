// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protojson"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/attestation"
)

// AttestOptions say how a machine is asked.
type AttestOptions struct {
	Nonce    []byte                // nil: a random one
	Out      string                // file for the attestation; empty: none is written
	Key      string                // the attestation key that it must be; empty: any
	Releases []attestation.Release // that it may run; nil: not compared
}

// Attest lets the machine prove what it booted, and checks that.
func (c *CLI) Attest(ctx context.Context, o AttestOptions) error {
	if o.Nonce == nil {
		o.Nonce = make([]byte, attestation.MaxNonce)
		rand.Read(o.Nonce) // never fails
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	a, err := unary(ctx, api.Attest.Attest, &wherryv1.AttestRequest{Nonce: o.Nonce})
	if err != nil {
		return err
	}
	if o.Out != "" {
		data, err := protojson.MarshalOptions{Multiline: true}.Marshal(a)
		if err != nil {
			return fmt.Errorf("write the attestation: %w", err)
		}
		if err := atomicfile.Write(o.Out, append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the attestation: %w", err)
		}
	}
	return c.PrintAttestation(attestation.Verify(a, attestation.Expect{
		MachineKey: c.machine.Fingerprint, AttestationKey: o.Key, Nonce: o.Nonce, Releases: o.Releases,
	}))
}

// ReadAttestation reads what Attest wrote.
func ReadAttestation(path string) (*wherryv1.Attestation, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the attestation: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, attestation.MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the attestation: %w", err)
	}
	if len(data) > attestation.MaxFileBytes {
		return nil, fmt.Errorf("read the attestation: %s is longer than %d bytes", path, attestation.MaxFileBytes)
	}
	a := &wherryv1.Attestation{}
	err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, a)
	if err == nil && a.Format == 0 {
		err = errors.New("it does not say of which form it is")
	}
	if err != nil {
		return nil, fmt.Errorf("read the attestation: %s is none: %w", path, err)
	}
	return a, nil
}

var registerTexts = map[int]string{
	0: "firmware", 1: "its settings", 2: "option ROMs", 3: "their settings", 4: "programs that the firmware started", 5: "partition table",
	6: "the maker's", 7: "Secure Boot", 11: "the OS file", 12: "the kernel's command line", 13: "extensions",
}

// PrintAttestation prints what came of a check, and is an error when it is not good.
func (c *CLI) PrintAttestation(r attestation.Report) error {
	if c.JSON {
		if err := c.printJSON(r); err != nil {
			return err
		}
	} else if err := c.printReport(r); err != nil {
		return err
	}
	if !r.Good {
		failed := r.Failed()
		return &ExitError{1, fmt.Errorf("the attestation is not good: %s: %s", failed[0].Name, failed[0].Detail)}
	}
	return nil
}

func (c *CLI) printReport(r attestation.Report) error {
	var rows [][]string
	for _, p := range r.PCRs {
		rows = append(rows, []string{fmt.Sprintf("PCR %d", p.Index), p.Value, registerTexts[p.Index]})
	}
	var checks [][]string
	for _, check := range r.Checks {
		checks = append(checks, []string{check.Name, string(check.Result), check.Detail})
	}
	if s := r.SecureBoot; s != nil {
		for _, e := range s.Enrolled {
			checks = append(checks, []string{"enrolled key", "", fmt.Sprintf("%s (%s)", e.Subject, e.Fingerprint)})
		}
	}
	if r.Starts > 0 {
		checks = append(checks, []string{"starts", "", fmt.Sprint(r.Starts)})
	}
	var err error
	if len(rows) > 0 {
		err = table(c.Out, "REGISTER\tVALUE (SHA-256)\tWHAT", rows)
		fmt.Fprintln(c.Out)
	}
	return errors.Join(err, table(c.Out, "CHECK\tRESULT\tDETAIL", checks))
}
