// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"io"
	"os"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

// ShowConfig prints the configuration that the machine follows.
func (c *CLI) ShowConfig(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Machine.GetConfig, &wherryv1.GetConfigRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	fmt.Fprintf(c.Out, "# source: %s\n%s", res.Source, res.Document)
	return nil
}

// ApplyConfig gives the machine a configuration, or with dryRun only shows
// what it would change. One that takes the user's own admin key away needs force.
func (c *CLI) ApplyConfig(ctx context.Context, path string, dryRun, force bool) error {
	document, err := c.readDocument(path)
	if err != nil {
		return err
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if lock := c.locksOut(ctx, document); lock != nil && !force {
		if !dryRun {
			return lock
		}
		c.notef("warning: %v", lock)
	}
	res, err := unary(ctx, api.Machine.ApplyConfig, &wherryv1.ApplyConfigRequest{Document: string(document), DryRun: dryRun})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	for _, p := range res.Problems {
		c.notef("%s", problemLine(path, p))
	}
	for _, x := range res.Changes {
		fmt.Fprintf(c.Out, "%s: %s -> %s\n", x.Path, orNone(x.Before), orNone(x.After))
	}
	if len(res.Changes) == 0 {
		c.notef("nothing changes")
	}
	return nil
}

// locksOut says that with the document the user could not change the machine any
// more. A document that is wrong does not get that far: the machine says why.
func (c *CLI) locksOut(ctx context.Context, document []byte) error {
	m, report := config.Parse(document)
	if !report.OK() {
		return nil
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	me, err := unary(ctx, api.Machine.WhoAmI, &wherryv1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	for _, k := range m.Access.Keys {
		public, err := sshkey.ParsePublic(k.Key)
		if err != nil {
			continue
		}
		if f, err := sshkey.Fingerprint(public.Key); err == nil && f == me.Fingerprint && k.EffectiveRole() == config.RoleAdmin {
			return nil
		}
	}
	return fmt.Errorf("this would lock you out: access.keys does not have your key %s with the role admin; add it (`wherry machine config show` prints it), or say --force", me.Fingerprint)
}

func (c *CLI) readDocument(path string) ([]byte, error) {
	in := c.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, config.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) > config.MaxBytes {
		return nil, fmt.Errorf("the configuration %s is longer than %d bytes", path, config.MaxBytes)
	}
	return data, nil
}

func problemLine(file string, p *wherryv1.ConfigProblem) string {
	place := file
	if p.Line > 0 {
		place = fmt.Sprintf("%s:%d", file, p.Line)
	}
	if p.Path != "" {
		place += ": " + p.Path
	}
	return place + ": " + p.Message
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
