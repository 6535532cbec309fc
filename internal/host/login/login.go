// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/known"
)

// ChangedKeyError says that another key answers than the one that is known.
type ChangedKeyError struct {
	Machine known.Machine
	Got     string
}

func (e *ChangedKeyError) Error() string {
	return fmt.Sprintf(`THE KEY OF MACHINE %[1]s HAS CHANGED. Nothing was sent to it.
  known:    %[2]s
  answered: %[3]s  (at %[4]s)
Either somebody else answers in its place, or the machine was set up anew and made a new key.
If you know that it was set up anew:
  wherry machine rm %[1]s && wherry machine add %[1]s %[4]s --fingerprint %[3]s`,
		e.Machine.Name, e.Machine.Fingerprint, e.Got, e.Machine.Address)
}

// Connect connects to a known machine with the first of the user's keys that it knows.
func Connect(ctx context.Context, store *known.Store, m known.Machine, o Options) (*client.Client, error) {
	list, problems := Identities(ctx, o)
	if len(list) == 0 && o.IdentityFile != "" {
		return nil, fmt.Errorf("--identity: %w", errors.Join(problems...))
	}
	if len(list) == 0 {
		return nil, noKeys(problems)
	}
	preferred(list, m.Identity)
	var refused []Identity
	for _, id := range list {
		c, err := connectAs(ctx, m, id)
		var lock *lockedError
		switch {
		case err == nil:
			if id.Fingerprint != m.Identity {
				if err := store.SetIdentity(m.Name, id.Fingerprint); err != nil {
					problems = append(problems, err) // only costs a try next time
				}
			}
			return c, nil
		case errors.As(err, &lock):
			problems = append(problems, lock.err)
		case connect.CodeOf(err) == connect.CodeUnauthenticated:
			refused = append(refused, id)
		default:
			return nil, err
		}
	}
	return nil, notLetIn(m, refused, problems)
}

// preferred moves the identity with a fingerprint to the front.
func preferred(list []Identity, fingerprint string) {
	if i := slices.IndexFunc(list, func(x Identity) bool { return x.Fingerprint == fingerprint }); i > 0 {
		first := list[i]
		copy(list[1:i+1], list[:i])
		list[0] = first
	}
}

// lockedError says that a key could not be opened: others may do.
type lockedError struct{ err error }

func (e *lockedError) Error() string { return e.err.Error() }

func connectAs(ctx context.Context, m known.Machine, id Identity) (*client.Client, error) {
	signer, err := id.Signer(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &lockedError{err}
	}
	c, err := client.Dial(ctx, client.Options{Address: m.Address, Identity: signer, VerifyKey: func(got string) error {
		if got != m.Fingerprint {
			return &ChangedKeyError{m, got}
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	if _, err := c.Machine.WhoAmI(ctx, connect.NewRequest(&wherryv1.WhoAmIRequest{})); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func noKeys(problems []error) error {
	text := "you have no SSH key to log in with: make one with `ssh-keygen -t ed25519`, or name one with --identity"
	return errors.New(withProblems(text, problems))
}

func notLetIn(m known.Machine, refused []Identity, problems []error) error {
	var b strings.Builder
	fmt.Fprintf(&b, "machine %s (%s) does not let you in.", m.Name, m.Address)
	if len(refused) > 0 {
		b.WriteString(" It does not know these keys:")
	}
	for _, id := range refused {
		fmt.Fprintf(&b, "\n  %s  %s %s", id.Fingerprint, id.Source, id.Comment)
	}
	if len(refused) > 0 {
		b.WriteString("\nAsk its owner to add your SSH public key to access.keys, or name another key with --identity.")
	}
	return errors.New(withProblems(b.String(), problems))
}

func withProblems(text string, problems []error) string {
	for _, p := range problems {
		text += "\n  " + p.Error()
	}
	return text
}

// Meet makes a machine known at first contact. With a fingerprint the key that
// answers must be that one; without, the user is asked.
func Meet(ctx context.Context, store *known.Store, name, address, fingerprint string, ask Asker) (known.Machine, error) {
	address, err := client.Address(address)
	if err != nil {
		return known.Machine{}, err
	}
	got, err := client.Probe(ctx, client.Options{Address: address})
	if err != nil {
		return known.Machine{}, err
	}
	if err := accept(ctx, address, got, fingerprint, ask); err != nil {
		return known.Machine{}, err
	}
	if err := store.Add(name, address, got); err != nil {
		return known.Machine{}, err
	}
	return store.Get(name)
}

func accept(ctx context.Context, address, got, want string, ask Asker) error {
	switch {
	case want == got:
		return nil
	case want != "":
		return fmt.Errorf("the machine at %s has the key %s, not %s: nothing was sent to it", address, got, want)
	case ask == nil:
		return fmt.Errorf("the machine at %s is not known and there is no terminal to ask on; its key is %s: compare it with the machine's console and say --fingerprint %s", address, got, got)
	}
	ok, err := ask.Confirm(ctx, fmt.Sprintf("The machine at %s is not known yet. Its key is\n  %s\n(the machine's console shows it too). Is it the right one?", address, got))
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("not connected: the machine's key was not accepted")
	}
	return nil
}

// Find returns the machine that the user means: by name, or by an address,
// which is a first contact when no machine has it. An empty name is the current one.
func Find(ctx context.Context, store *known.Store, name string, ask Asker) (known.Machine, error) {
	if name == "" {
		return store.Current()
	}
	m, err := store.Get(name)
	if !errors.Is(err, known.ErrUnknown) || !looksLikeAddress(name) {
		return m, err
	}
	address, aerr := client.Address(name)
	if aerr != nil {
		return m, err
	}
	list, _, lerr := store.List()
	if lerr != nil {
		return m, lerr
	}
	for _, k := range list {
		if k.Address == address {
			return k, nil
		}
	}
	return Meet(ctx, store, nameFor(address), address, "", ask)
}

func looksLikeAddress(s string) bool { return strings.ContainsAny(s, ".:") }

// nameFor makes a machine's name of an address.
func nameFor(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	host = strings.ReplaceAll(strings.Trim(host, ":"), ":", "-")
	if port != client.DefaultPort {
		host += "-" + port
	}
	return host
}
