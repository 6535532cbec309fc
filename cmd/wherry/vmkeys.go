// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/host/login"
)

// vmPublicKeys are the keys that a new virtual machine lets in: all that the
// user can log in with. Where there is none, one is made.
func vmPublicKeys(ctx context.Context) ([]string, error) {
	o, err := login.Default()
	if err != nil {
		return nil, err
	}
	return login.PublicKeys(ctx, o)
}

// rememberVM makes a virtual machine known: its key came over its console,
// which nobody else can write to.
func rememberVM(name, address, fingerprint string) error {
	store, err := known.Default()
	if err != nil {
		return err
	}
	if m, err := store.Get(name); err == nil && m.Address == address && m.Fingerprint == fingerprint {
		return nil
	}
	return store.Add(name, address, fingerprint)
}

// forgetVM forgets a virtual machine that was removed.
func forgetVM(name string) error {
	store, err := known.Default()
	if err != nil {
		return err
	}
	if err := store.Remove(name); !errors.Is(err, known.ErrUnknown) {
		return err
	}
	return nil
}
