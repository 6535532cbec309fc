// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/release"
)

// Releases lists what is published, newest first.
func (r *Repository) Releases(ctx context.Context) ([]release.Release, error) {
	root, err := os.ReadFile(r.metadataFile("1.root.json"))
	if err != nil {
		return nil, err
	}
	read, err := release.Refresh(ctx, release.Config{Root: root, Now: r.Now, Source: release.Dir(r.Dir), Carried: true})
	if err != nil {
		return nil, err
	}
	return read.Releases, nil
}

// editions are the names of the manifests of a version.
func (r *Repository) editions(v release.Version) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(r.targets.Signed.Targets)) {
		if ok, _ := path.Match("releases/"+v.String()+"/*/"+release.ManifestName, name); ok {
			names = append(names, name)
		}
	}
	return names
}

func (r *Repository) entry(manifest string) (release.Entry, error) {
	return release.ParseEntry(r.targets.Signed.Targets[manifest].Custom)
}

func (r *Repository) setEntry(manifest string, e release.Entry) error {
	raw, err := e.MarshalCustom()
	r.targets.Signed.Targets[manifest].Custom = (*json.RawMessage)(&raw)
	return err
}

// edit changes the entries of all editions of a version and commits.
func (r *Repository) edit(ctx context.Context, keys Keys, v release.Version, change func(*release.Entry) error) error {
	names := r.editions(v)
	if len(names) == 0 {
		return fmt.Errorf("release %s is not published: see `wherry release ls`", v)
	}
	for _, name := range names {
		e, err := r.entry(name)
		if err != nil {
			return err
		}
		if e.Channels == nil {
			e.Channels = map[release.Channel]release.Rollout{}
		}
		if err := change(&e); err != nil {
			return fmt.Errorf("release %s: %w", v, err)
		}
		if err := r.setEntry(name, e); err != nil {
			return err
		}
	}
	return r.commit(ctx, keys, true)
}

var errWithdrawn = errors.New("it is withdrawn: publish a newer one")

// Promote puts a version into a channel, from the channel before. The files stay
// what they are.
func (r *Repository) Promote(ctx context.Context, keys Keys, v release.Version, to release.Channel, rollout release.Rollout) error {
	if err := rollout.Validate(); err != nil {
		return err
	}
	return r.edit(ctx, keys, v, func(e *release.Entry) error {
		if e.Withdrawn != nil {
			return errWithdrawn
		}
		if _, there := e.Channels[to]; there {
			return fmt.Errorf("it is in %s already: `wherry release rollout` changes how far", to)
		}
		if from, ok := to.Before(); ok {
			if _, there := e.Channels[from]; !there {
				return fmt.Errorf("it is not in %s yet: promote it there first", from)
			}
		}
		e.Channels[to] = rollout
		return nil
	})
}

// Rollout changes how far a version has come in a channel.
func (r *Repository) Rollout(ctx context.Context, keys Keys, v release.Version, in release.Channel, rollout release.Rollout) error {
	if err := rollout.Validate(); err != nil {
		return err
	}
	return r.edit(ctx, keys, v, func(e *release.Entry) error {
		if e.Withdrawn != nil {
			return errWithdrawn
		}
		if _, there := e.Channels[in]; !there {
			return fmt.Errorf("it is not in %s: promote it there first", in)
		}
		e.Channels[in] = rollout
		return nil
	})
}

// Withdraw makes machines leave a version alone. Those that run it stay there
// until there is a newer one.
func (r *Repository) Withdraw(ctx context.Context, keys Keys, v release.Version, reason string) error {
	return r.edit(ctx, keys, v, func(e *release.Entry) error {
		if e.Withdrawn != nil {
			return errors.New("it is withdrawn already")
		}
		e.Withdrawn = &release.Withdrawal{At: r.now(), Reason: reason}
		return nil
	})
}

// Remove takes a withdrawn version out of the repository, and then its files: no
// machine asks for them any more. Files that a cut leaves behind are named by nothing.
func (r *Repository) Remove(ctx context.Context, keys Keys, v release.Version) error {
	names := r.editions(v)
	if len(names) == 0 {
		return fmt.Errorf("release %s is not published: see `wherry release ls`", v)
	}
	for _, name := range names {
		if e, err := r.entry(name); err != nil || e.Withdrawn == nil {
			return errors.Join(err, fmt.Errorf("release %s: withdraw it first, so that no machine is on its way to it", v))
		}
	}
	for name := range r.targets.Signed.Targets {
		if strings.HasPrefix(name, "releases/"+v.String()+"/") {
			delete(r.targets.Signed.Targets, name)
		}
	}
	if err := r.commit(ctx, keys, true); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(r.Dir, "targets", "releases", v.String()))
}

// Newest is the newest version in a channel that is not withdrawn.
func (r *Repository) Newest(ctx context.Context, in release.Channel) (release.Version, error) {
	all, err := r.Releases(ctx)
	if err != nil {
		return release.Version{}, err
	}
	for _, rel := range all {
		if _, there := rel.Channels[in]; there && rel.Withdrawn == nil {
			return rel.Version, nil
		}
	}
	return release.Version{}, fmt.Errorf("there is no release in channel %s", in)
}
