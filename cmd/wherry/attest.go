// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"wherry.example/wherry/internal/attestation"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/release"
)

// exitUnchecked is the exit code when nothing could be said about an attestation.
const exitUnchecked = 2

func newAttestCommand(a *app) *cobra.Command {
	var nonce, manifest string
	var o ctl.AttestOptions
	cmd := &cobra.Command{
		Use: "attest", Short: "Let the machine prove what it booted", Args: cobra.NoArgs,
		Long: `Let the machine prove, with its TPM, what it booted. The answer is checked here: that
the machine that is known by its key gave it, to this question, and that the
firmware's log leads to what the TPM signed. With --manifest, also that it runs
that release. --out keeps the answer for ` + "`wherry release verify-attestation`" + `.

Exit codes: 0 good, 1 a check failed or the machine has no TPM.`,
		Example: "  wherry machine attest --manifest build/core-amd64/manifest.json\n  wherry machine attest --nonce $(openssl rand -hex 32) --out answer.json",
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Nonce, err = parseNonce(nonce); err != nil {
				return &usageError{cmd, err}
			}
			if manifest != "" {
				if o.Releases, err = manifestReleases(manifest); err != nil {
					return err
				}
			}
			return a.cli(cmd).Attest(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&nonce, "nonce", "", "16 to 32 bytes in hex, never used before (default: random ones)")
	f.StringVar(&o.Out, "out", "", "write the attestation to this file")
	f.StringVar(&manifest, "manifest", "", "manifest.json of the release that it should run")
	f.StringVar(&o.Key, "attestation-key", "", "the TPM's key that it must be: SHA256:…")
	return cmd
}

func parseNonce(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) < attestation.MinNonce || len(b) > attestation.MaxNonce {
		return nil, fmt.Errorf("--nonce %.80q: want %d to %d bytes in hex", text, attestation.MinNonce, attestation.MaxNonce)
	}
	return b, nil
}

func (r *releaseApp) verifyAttestationCommand() *cobra.Command {
	var root, manifest, nonce string
	var e attestation.Expect
	cmd := &cobra.Command{
		Use: "verify-attestation FILE", Short: "Check what a machine said that it booted", Args: cobra.ExactArgs(1),
		Long: `Check an attestation that ` + "`wherry machine attest --out FILE`" + ` wrote: that the machine with
that key and its TPM made it, that the firmware's log leads to what the TPM
signed, and that the release started is one of the repository's, or the manifest's.
Nothing of the machine is asked.

Exit codes: 0 good, 1 a check failed, 2 it could not be checked.`,
		Example: "  wherry release verify-attestation answer.json --repository https://releases.example/wherry --root 1.root.json --machine-key SHA256:…\n" +
			"  wherry release verify-attestation answer.json --manifest manifest.json --machine-key SHA256:… --nonce 5f0c…",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if e.MachineKey == "" {
				return &usageError{cmd, errors.New("say which machine is meant with --machine-key (see `wherry machine ls`)")}
			}
			if e.Nonce, err = parseNonce(nonce); err != nil {
				return &usageError{cmd, err}
			}
			a, err := ctl.ReadAttestation(args[0])
			if err == nil {
				e.Releases, err = r.attestedReleases(cmd.Context(), manifest, root)
			}
			if err != nil {
				return &ctl.ExitError{Code: exitUnchecked, Err: err}
			}
			return r.cli(cmd).PrintAttestation(attestation.Verify(a, e))
		},
	}
	rootFlag(cmd, &root)
	f := cmd.Flags()
	f.StringVar(&manifest, "manifest", "", "manifest.json of the one release, instead of --repository")
	f.StringVar(&e.MachineKey, "machine-key", "", "the machine's key: SHA256:…")
	f.StringVar(&e.AttestationKey, "attestation-key", "", "its TPM's key, if you have seen it before: SHA256:…")
	f.StringVar(&nonce, "nonce", "", "what the machine was asked with, in hex")
	return cmd
}

// attestedReleases are what a machine may run: one manifest, or all of a repository.
func (r *releaseApp) attestedReleases(ctx context.Context, manifest, root string) ([]attestation.Release, error) {
	if manifest != "" {
		return manifestReleases(manifest)
	}
	read, err := r.look(ctx, r.dir, root)
	if err != nil {
		return nil, fmt.Errorf("%w (name the releases with --repository DIR|URL, or with --manifest FILE)", err)
	}
	list := []attestation.Release{}
	for _, rel := range read.Releases {
		m, err := read.Manifest(ctx, rel)
		if err != nil {
			return nil, err
		}
		if m.Boot == nil {
			continue
		}
		known := attestedRelease(m)
		if rel.Withdrawn != nil {
			known.Name += ", which was withdrawn: " + rel.Withdrawn.Reason
		}
		list = append(list, known)
	}
	return list, nil
}

func manifestReleases(path string) ([]attestation.Release, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := release.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if m.Boot == nil {
		return nil, fmt.Errorf("%s is of an image without an OS file, which no firmware starts: build it with `wherry build --format efi`", path)
	}
	return []attestation.Release{attestedRelease(m)}, nil
}

func attestedRelease(m release.Manifest) attestation.Release {
	return attestation.Release{
		Name:  fmt.Sprintf("%s %s-%s", m.Version, m.Edition, m.Arch),
		PCR11: m.Boot.PCR11, SignedBy: m.Boot.SignedBy, Loader: m.Boot.Loader, File: m.Boot.File, Cmdline: m.Boot.Cmdline,
	}
}
