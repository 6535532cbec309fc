// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Config is how a repository is read.
type Config struct {
	Root   []byte // the root role that the machine was built with
	Source Source
	Store  Store            // nil: remember nothing, know no rollback
	Limits *Limits          // nil: DefaultLimits
	Now    func() time.Time // nil: time.Now. Expiry is as good as this clock

	// NotBefore is a time that has passed for certain, such as that at which the
	// machine's release was built: a clock that tells an earlier one is not believed.
	NotBefore time.Time

	// Carried says that a person brought the repository, on a stick or as a
	// bundle, and answers for how fresh it is: timestamp and snapshot may have
	// expired. Root and targets may not, and nothing may go back.
	Carried bool
}

func (c Config) withDefaults() Config {
	if c.Store == nil {
		c.Store = nothing{}
	}
	if c.Limits == nil {
		l := DefaultLimits()
		c.Limits = &l
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Repository is what was signed, at the time of the refresh.
type Repository struct {
	Releases []Release // newest first
	Root     int64     // version of the root role
	Targets  int64     // version of the targets role
	Expires  time.Time // when a newer timestamp must be there

	source Source
	limits Limits
}

// session is one refresh.
type session struct {
	Config
	trusted *trustedmetadata.TrustedMetadata
	now     time.Time
	read    fetched // what came last
}

// Refresh reads the repository's metadata and verifies it. Verified files are put
// into the store one by one, also when a later one is refused.
func Refresh(ctx context.Context, c Config) (*Repository, error) {
	c = c.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, c.Limits.RefreshTime, ErrSlow)
	defer cancel()
	trusted, err := trustRoot(c.Root, *c.Limits)
	if err != nil {
		return nil, fmt.Errorf("read the root role to begin with: %w", err)
	}
	s := &session{Config: c, trusted: trusted, now: c.Now().UTC()}
	if s.now.Before(c.NotBefore) {
		s.now = c.NotBefore.UTC()
	}
	trusted.RefTime = s.now
	for _, step := range []func(context.Context) error{s.keepOwn, s.roots, s.timestamp, s.snapshot, s.targets} {
		if err := step(ctx); err != nil {
			return nil, s.explain(err)
		}
	}
	return s.repository()
}

func (s *session) repository() (*Repository, error) {
	signed := s.trusted.Targets[metadata.TARGETS].Signed
	releases, err := parseTargets(signed)
	if err != nil {
		return nil, fmt.Errorf("read targets.json: %w", err)
	}
	return &Repository{
		Releases: releases, Root: s.trusted.Root.Signed.Version, Targets: signed.Version,
		Expires: s.trusted.Timestamp.Signed.Expires, source: s.Source, limits: *s.Limits,
	}, nil
}

// fetch reads a metadata file.
func (s *session) fetch(ctx context.Context, name string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Limits.FileTime, ErrSlow)
	defer cancel()
	data, err := readAll(ctx, s.Source, "metadata/"+name, limit)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	s.read = fetched{name, data}
	return data, nil
}

func (s *session) load(name string, limit int64) ([]byte, bool) {
	data, err := s.Store.Load(name)
	return data, err == nil && int64(len(data)) <= limit
}

// keepOwn keeps the root role of the image among the links. The release before this one, to which
// the machine may go back, carries an older one: it finds the chain whole, whatever a repository hides from it.
func (s *session) keepOwn(context.Context) error {
	name := rootName(s.trusted.Root.Signed.Version)
	if had, ok := s.load(name, s.Limits.RootBytes); ok && bytes.Equal(had, s.Root) {
		return nil
	}
	return s.Store.Save(name, s.Root)
}

func rootName(version int64) string { return fmt.Sprintf("%d.root.json", version) }

func (s *session) nextName() string { return rootName(s.trusted.Root.Signed.Version + 1) }

// storedRoot goes on to a link that was kept. What is damaged, or not signed by the link before, counts as not there.
func (s *session) storedRoot(name string) bool {
	data, ok := s.load(name, s.Limits.RootBytes)
	return ok && s.updateRoot(data) == nil
}

// roots follows the chain of root roles to its end.
func (s *session) roots(ctx context.Context) error {
	for range s.Limits.Roots {
		more, err := s.nextRoot(ctx)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if s.trusted.Root.Signed.IsExpired(s.now) {
			return fmt.Errorf("read %d.root.json: %w on %s, and there is no newer one", s.trusted.Root.Signed.Version, ErrExpired,
				s.trusted.Root.Signed.Expires.Format(time.DateOnly))
		}
		return nil
	}
	return fmt.Errorf("follow root roles: %w: more than %d", ErrTooLarge, s.Limits.Roots)
}

func (s *session) nextRoot(ctx context.Context) (more bool, err error) {
	name := s.nextName()
	if s.storedRoot(name) {
		return true, nil
	}
	data, err := s.fetch(ctx, name, s.Limits.RootBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := s.updateRoot(data); err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return true, s.Store.Save(name, data)
}

func (s *session) updateRoot(data []byte) error {
	if _, err := checkRoot(data); err != nil {
		return err
	}
	_, err := s.trusted.UpdateRoot(data)
	return err
}

func (s *session) timestamp(ctx context.Context) error {
	const name = "timestamp.json"
	if data, ok := s.load(name, s.Limits.TimestampBytes); ok {
		if _, err := checkTimestamp(data, *s.Limits); err == nil {
			// Its keys may be revoked, or it may have expired: then it is known as
			// older, or forgotten, which is all that is wanted.
			_, _ = s.trusted.UpdateTimestamp(data)
		}
	}
	data, err := s.fetch(ctx, name, s.Limits.TimestampBytes)
	if err != nil {
		return err
	}
	expires, err := checkTimestamp(data, *s.Limits)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	s.trusted.RefTime = s.asOf(expires)
	_, err = s.trusted.UpdateTimestamp(data)
	var equal *metadata.ErrEqualVersionNumber
	switch {
	case errors.As(err, &equal):
		s.trusted.RefTime = s.asOf(s.trusted.Timestamp.Signed.Expires)
		return nil
	case err != nil:
		return fmt.Errorf("read %s (it expires on %s): %w", name, expires.Format(time.DateOnly), err)
	}
	return s.Store.Save(name, data)
}

// asOf is the time by which freshness is judged: now, or for what a person
// carried here, a moment at which it was fresh.
func (s *session) asOf(expires time.Time) time.Time {
	if moment := expires.Add(-time.Second); s.Carried && moment.Before(s.trusted.RefTime) {
		return moment
	}
	return s.trusted.RefTime
}

func (s *session) snapshot(ctx context.Context) error {
	meta := s.trusted.Timestamp.Signed.Meta["snapshot.json"]
	if data, ok := s.load("snapshot.json", s.Limits.SnapshotBytes); ok {
		expires, err := checkSnapshot(data, *s.Limits)
		if err == nil {
			before := s.trusted.RefTime
			s.trusted.RefTime = s.asOf(expires)
			if _, err := s.trusted.UpdateSnapshot(data, true); err == nil && meta.VerifyLengthHashes(data) == nil {
				return nil
			}
			s.trusted.RefTime = before
		}
	}
	name := fmt.Sprintf("%d.snapshot.json", meta.Version)
	data, err := s.fetch(ctx, name, meta.Length)
	if err != nil {
		return err
	}
	if err := meta.VerifyLengthHashes(data); err != nil { // before anything is made of it
		return fmt.Errorf("read %s: %w", name, err)
	}
	expires, err := checkSnapshot(data, *s.Limits)
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	s.trusted.RefTime = s.asOf(expires)
	if _, err := s.trusted.UpdateSnapshot(data, false); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return s.Store.Save("snapshot.json", data)
}

func (s *session) targets(ctx context.Context) error {
	meta := s.trusted.Snapshot.Signed.Meta["targets.json"]
	name := fmt.Sprintf("%d.targets.json", meta.Version)
	if data, ok := s.load("targets.json", s.Limits.TargetsBytes); ok && meta.VerifyLengthHashes(data) == nil && s.updateTargets(data) == nil {
		return nil
	}
	data, err := s.fetch(ctx, name, meta.Length)
	if err != nil {
		return err
	}
	if err := meta.VerifyLengthHashes(data); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	if err := s.updateTargets(data); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return s.Store.Save("targets.json", data)
}

// updateTargets reads the one file that may be large as few times as it can.
func (s *session) updateTargets(data []byte) error {
	if err := checkJSON(data); err != nil {
		return err
	}
	m, err := s.trusted.UpdateTargets(data)
	switch {
	case err != nil:
		return err
	case m.Signed.IsExpired(s.now): // also when it was carried
		return fmt.Errorf("%w on %s", ErrExpired, m.Signed.Expires.Format(time.DateOnly))
	case m.Signed.Delegations != nil:
		return errors.New("delegations are not used here")
	}
	return nil
}

// explain says what go-tuf's errors mean here, and what can be done.
func (s *session) explain(err error) error {
	var expired *metadata.ErrExpiredMetadata
	var version *metadata.ErrBadVersionNumber
	var unsigned *metadata.ErrUnsignedMetadata
	var mismatch *metadata.ErrLengthOrHashMismatch
	switch {
	case errors.As(err, &expired), errors.Is(err, ErrExpired):
		return mark(ErrExpired, err, "the publisher must sign anew, or somebody keeps news from this machine, or its clock is wrong")
	case errors.As(err, &version) && s.Carried:
		return mark(ErrRollback, err, "this machine has seen newer metadata of it: "+anew)
	case errors.As(err, &version):
		return mark(ErrRollback, err, "somebody offers an old repository, or files of different times are mixed")
	case errors.As(err, &unsigned):
		return mark(ErrSignature, err, s.whoseKeys())
	case errors.As(err, &mismatch):
		return mark(ErrMismatch, err, "the mirror is not complete yet, or somebody changed it")
	}
	return err
}

func mark(kind, err error, advice string) error {
	if errors.Is(err, kind) {
		return fmt.Errorf("%w (%s)", err, advice)
	}
	return fmt.Errorf("repository: %w: %w (%s)", kind, err, advice)
}
