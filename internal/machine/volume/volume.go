// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package volume keeps named directories that outlive containers.
//
// It owns one directory, below it one per volume: NAME/data is what containers
// mount, NAME/volume.json the record. A volume appears and disappears by one
// rename, so that a power cut leaves it whole or not at all; what was half made
// or half removed has a name that begins with a dot and is removed in the
// background at the next start. A volume whose record cannot be read keeps its
// data and is listed without labels.
//
// On a state file system with project quota each volume is a project of its
// own: what it uses is known at once, and it can be limited. Project numbers are
// never used twice. In memory there is no quota: asking for a limit is an error.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/linux/quota"
)

// Bounds on what callers ask for.
const (
	maxVolumes    = 10000
	maxLabels     = 64
	maxLabelBytes = 4096
	minLimitBytes = 1 << 20
)

// firstProject leaves the small numbers to others.
const firstProject = 1000

// nameRE and maxName are docker's. The bound is not in the pattern, which would
// take 40 kB for it.
var nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

const maxName = 128

func isName(s string) bool { return len(s) <= maxName && nameRE.MatchString(s) }

// Options of Open.
type Options struct {
	// Dir holds the volumes; it is made when missing.
	Dir string
	// Users tells which containers (by name) mount which volumes. It is called
	// with the volumes locked: it must not wait for a call of this package.
	Users func() map[string][]string
	// Event is told what happened: create, destroy. It may be nil.
	Event func(action, name string)
	Log   *slog.Logger
}

// Volumes is safe for concurrent use.
type Volumes struct {
	options Options
	limits  bool // the file system counts projects

	mu      sync.Mutex
	records map[string]record
	next    uint32 // project
}

// record is what volume.json holds.
type record struct {
	Created   time.Time         `json:"created"`
	Anonymous bool              `json:"anonymous,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Limit     uint64            `json:"limitBytes,omitempty"`
	Project   uint32            `json:"project,omitempty"`
}

// Open reads the volumes that exist.
func Open(o Options) (*Volumes, error) {
	v := &Volumes{options: o, records: map[string]record{}, next: firstProject}
	if v.options.Users == nil {
		v.options.Users = func() map[string][]string { return nil }
	}
	if err := os.MkdirAll(o.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	v.limits = quota.Supported(o.Dir)
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("open volumes: %w", err)
	}
	var leftovers []string
	for _, e := range entries {
		switch {
		case isName(e.Name()) && e.IsDir():
			v.records[e.Name()] = v.load(e.Name())
		case e.IsDir() && strings.HasPrefix(e.Name(), "."), atomicfile.IsTemp(e.Name()):
			leftovers = append(leftovers, v.path(e.Name()))
		}
	}
	if err := v.loadNext(); err != nil {
		return nil, err
	}
	go v.purge(leftovers)
	return v, nil
}

func (v *Volumes) path(parts ...string) string {
	return filepath.Join(append([]string{v.options.Dir}, parts...)...)
}

func (v *Volumes) dataDir(name string) string { return v.path(name, "data") }

// load reads a record; what is lost of it is made up from the data.
func (v *Volumes) load(name string) record {
	var r record
	data, err := os.ReadFile(v.path(name, "volume.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err == nil {
		return r
	}
	v.options.Log.Warn("volume without a readable record", "volume", name, "error", err)
	r = record{}
	if info, err := os.Stat(v.dataDir(name)); err == nil {
		r.Created = info.ModTime()
	}
	if project, err := quota.Project(v.dataDir(name)); err == nil {
		r.Project = project
	}
	return r
}

// nextFile remembers the next project number, so that the number of a removed
// volume whose files may still be there is not used again.
const nextFile = ".next-project"

func (v *Volumes) loadNext() error {
	data, err := os.ReadFile(v.path(nextFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open volumes: %w", err)
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 32); err == nil {
		v.next = max(v.next, uint32(n))
	}
	for _, r := range v.records {
		v.next = max(v.next, r.Project+1)
	}
	return nil
}

// purge removes what an interrupted creation or removal left.
func (v *Volumes) purge(paths []string) {
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			v.options.Log.Warn("leftover of a volume was not removed", "path", path, "error", err)
		}
	}
}

// Ensure returns the directory of a volume, creating the volume when it does
// not exist.
func (v *Volumes) Ensure(_ context.Context, name string, anonymous bool) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.records[name]; ok {
		return v.dataDir(name), nil
	}
	if err := v.createLocked(name, record{Anonymous: anonymous}); err != nil {
		return "", err
	}
	return v.dataDir(name), nil
}

// CreateVolume makes a volume. One of that name that exists is the answer when
// nothing else is asked of it.
func (v *Volumes) CreateVolume(ctx context.Context, req *wherryv1.CreateVolumeRequest) (*wherryv1.Volume, error) {
	r := record{Labels: req.Labels, Limit: req.LimitBytes}
	name := req.Name
	if name == "" {
		name, r.Anonymous = randomName(), true
	}
	if err := v.check(r); err != nil {
		return nil, err
	}
	if err := v.create(name, r); err != nil {
		return nil, err
	}
	return v.InspectVolume(ctx, name)
}

// create makes a volume, or accepts the one that exists.
func (v *Volumes) create(name string, r record) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	old, exists := v.records[name]
	if !exists {
		return v.createLocked(name, r)
	}
	if r.Limit != 0 && r.Limit != old.Limit || len(r.Labels) > 0 && !maps.Equal(r.Labels, old.Labels) {
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("there is a volume %s already, with other labels or another limit", name))
	}
	return nil
}

func randomName() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// check refuses what can never be made.
func (v *Volumes) check(r record) error {
	if len(r.Labels) > maxLabels {
		return invalid("%d labels; at most %d", len(r.Labels), maxLabels)
	}
	for key, value := range r.Labels {
		if key == "" || len(key)+len(value) > maxLabelBytes {
			return invalid("label %.100q: names are not empty, names and values together at most %d bytes", key, maxLabelBytes)
		}
	}
	if r.Limit == 0 {
		return nil
	}
	if !v.limits {
		return errdefs.ErrFailedPrecondition.WithMessage("this machine keeps its state in memory, where volumes cannot be limited: give it a disk, or leave the limit out")
	}
	if r.Limit < minLimitBytes || r.Limit > 1<<60 {
		return invalid("a limit of %d bytes; at least %d", r.Limit, minLimitBytes)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// createLocked makes a volume aside and renames it into place.
func (v *Volumes) createLocked(name string, r record) error {
	if !isName(name) {
		return invalid("volume name %.150q: use 2 to 128 letters, digits, dots, dashes and underscores, a letter or digit first", name)
	}
	if len(v.records) >= maxVolumes {
		return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf("there are %d volumes already: remove some", maxVolumes))
	}
	r.Created = time.Now().UTC()
	aside, err := os.MkdirTemp(v.options.Dir, ".new-")
	if err != nil {
		return fmt.Errorf("make volume %s: %w", name, err)
	}
	if err = v.fillLocked(aside, &r); err == nil {
		err = os.Rename(aside, v.path(name))
	}
	if err != nil {
		return fmt.Errorf("make volume %s: %w", name, errors.Join(err, os.RemoveAll(aside)))
	}
	if err := atomicfile.SyncDir(v.options.Dir); err != nil {
		return fmt.Errorf("make volume %s: %w", name, err)
	}
	v.records[name] = r
	v.event("create", name)
	return nil
}

// fillLocked puts the data directory and the record into a new volume.
func (v *Volumes) fillLocked(dir string, r *record) error {
	// Others may pass through but not look around: the path is a bind mount's source.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	if v.limits {
		if err := v.projectLocked(data, r); err != nil {
			return err
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, "volume.json"), append(text, '\n'), 0o600)
}

func (v *Volumes) projectLocked(data string, r *record) error {
	r.Project = v.next
	if err := atomicfile.Write(v.path(nextFile), fmt.Appendln(nil, r.Project+1), 0o600); err != nil {
		return err
	}
	v.next++
	if err := quota.SetProject(data, r.Project); err != nil {
		return err
	}
	if r.Limit == 0 {
		return nil
	}
	return quota.SetLimit(data, r.Project, r.Limit)
}

// Remove removes a volume; the caller knows that nothing uses it. One that does
// not exist is no error.
func (v *Volumes) Remove(_ context.Context, name string) error {
	v.mu.Lock()
	aside, err := v.asideLocked(name)
	v.mu.Unlock()
	if err != nil || aside == "" {
		return err
	}
	return v.destroy(name, aside)
}

// RemoveVolume removes a volume that no container mounts. With force, one that
// does not exist is no error.
func (v *Volumes) RemoveVolume(_ context.Context, name string, force bool) error {
	v.mu.Lock()
	if users := v.options.Users()[name]; len(users) > 0 {
		v.mu.Unlock()
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("volume %s is in use by %s: remove the container first", name, strings.Join(users, ", ")))
	}
	aside, err := v.asideLocked(name)
	v.mu.Unlock()
	switch {
	case err != nil:
		return err
	case aside != "":
		return v.destroy(name, aside)
	case force:
		return nil
	}
	return notFound(name)
}

func notFound(name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("there is no volume %.150q", name))
}

// asideLocked takes a volume out of sight and returns where its files are; ""
// when there is none.
func (v *Volumes) asideLocked(name string) (string, error) {
	r, ok := v.records[name]
	if !ok {
		return "", nil
	}
	aside := v.path(".gone-" + randomName()[:16])
	err := os.Rename(v.path(name), aside)
	if errors.Is(err, unix.ENOSPC) { // the disk is so full that a name does not fit: removing is what helps
		err = os.RemoveAll(v.path(name)) // here, before somebody makes another one of the name
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("remove volume %s: %w", name, err)
	}
	delete(v.records, name)
	if r.Project != 0 && r.Limit != 0 {
		// Only tidiness: the number is never used again.
		_ = quota.SetLimit(v.options.Dir, r.Project, 0)
	}
	return aside, nil
}

// destroy deletes the files of a volume that was taken aside.
func (v *Volumes) destroy(name, aside string) error {
	v.event("destroy", name)
	err := errors.Join(atomicfile.SyncDir(v.options.Dir), os.RemoveAll(aside))
	if err != nil {
		return fmt.Errorf("remove the files of volume %s (tried again at the next boot): %w", name, err)
	}
	return nil
}

func (v *Volumes) event(action, name string) {
	if v.options.Event != nil {
		v.options.Event(action, name)
	}
}

// ListVolumes returns all volumes ordered by name.
func (v *Volumes) ListVolumes(context.Context) ([]*wherryv1.Volume, error) {
	v.mu.Lock()
	names := slices.Sorted(maps.Keys(v.records))
	v.mu.Unlock()
	users, budget := v.options.Users(), newWalkBudget()
	var out []*wherryv1.Volume
	for _, name := range names {
		if volume := v.describe(name, users, budget); volume != nil {
			out = append(out, volume)
		}
	}
	return out, nil
}

// InspectVolume returns one volume.
func (v *Volumes) InspectVolume(_ context.Context, name string) (*wherryv1.Volume, error) {
	volume := v.describe(name, v.options.Users(), newWalkBudget())
	if volume == nil {
		return nil, notFound(name)
	}
	return volume, nil
}

// PruneVolumes removes the volumes that no container mounts: anonymous ones,
// with all named ones too.
func (v *Volumes) PruneVolumes(ctx context.Context, all bool) (*wherryv1.PruneVolumesResponse, error) {
	volumes, err := v.ListVolumes(ctx)
	if err != nil {
		return nil, err
	}
	out := &wherryv1.PruneVolumesResponse{}
	for _, volume := range volumes {
		if !volume.Anonymous && !all || len(volume.Containers) > 0 {
			continue
		}
		// A container can have come in between; such a volume stays.
		if err := v.RemoveVolume(ctx, volume.Name, true); errdefs.IsFailedPrecondition(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		out.Removed = append(out.Removed, volume.Name)
		out.FreedBytes += volume.UsedBytes
	}
	return out, ctx.Err()
}

// describe returns what the API tells of a volume, nil when it is gone.
func (v *Volumes) describe(name string, users map[string][]string, budget walkBudget) *wherryv1.Volume {
	v.mu.Lock()
	r, ok := v.records[name]
	v.mu.Unlock()
	if !ok {
		return nil
	}
	return &wherryv1.Volume{
		Name: name, Labels: maps.Clone(r.Labels), LimitBytes: r.Limit, UsedBytes: v.used(name, r, budget),
		CreatedAt: timestamppb.New(r.Created), Anonymous: r.Anonymous, Containers: slices.Clone(users[name]),
	}
}
