// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"path"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"wherry.example/wherry/api/wherryv1"
)

const (
	defaultPath        = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultStopTimeout = 10 * time.Second
	defaultShm         = 64 << 20
)

// effectiveSpec fills in what the request left to the image, by docker's rules:
// an entrypoint of the request drops the image's command too.
func effectiveSpec(asked *wherryv1.ContainerSpec, id, name string, img ocispec.ImageConfig, health *wherryv1.HealthCheck) (*wherryv1.ContainerSpec, error) {
	s := proto.CloneOf(asked)
	s.Name = name
	if !s.ClearEntrypoint && len(s.Entrypoint) == 0 {
		s.Entrypoint = slices.Clone(img.Entrypoint)
		if len(s.Command) == 0 {
			s.Command = slices.Clone(img.Cmd)
		}
	}
	if len(s.Entrypoint)+len(s.Command) == 0 {
		return nil, &Error{KindInvalid, 127, errorf(KindInvalid, "neither the image nor the request names a command")}
	}
	s.Env = mergeEnv(img.Env, s.Env, s.Tty)
	if s.Workdir == "" {
		s.Workdir = img.WorkingDir
	}
	s.Workdir = path.Clean("/" + s.Workdir)
	if s.User == "" {
		s.User = img.User
	}
	s.Labels = mergeLabels(img.Labels, s.Labels)
	if s.StopSignal == "" {
		s.StopSignal = img.StopSignal
	}
	if _, err := parseSignal(s.StopSignal); err != nil {
		s.StopSignal = "SIGTERM" // of the image: not the user's fault
	}
	if s.StopTimeout == nil {
		s.StopTimeout = durationpb.New(defaultStopTimeout)
	}
	if s.Hostname == "" && s.NetworkMode != wherryv1.NetworkMode_NETWORK_MODE_HOST {
		s.Hostname = shortID(id)
	}
	if s.ShmBytes == 0 {
		s.ShmBytes = defaultShm
	}
	s.Health = effectiveHealth(s.Health, health)
	if err := checkImageValues(s); err != nil {
		return nil, err
	}
	return s, addImageVolumes(s, img)
}

// checkImageValues bounds what came from the image: it is as hostile as a caller.
func checkImageValues(s *wherryv1.ContainerSpec) error {
	for _, err := range []error{
		checkArgs("the image's and the request's command", append(slices.Clone(s.Entrypoint), s.Command...)),
		checkEnv(s.Env), checkText("user", s.User), checkWorkdir(s.Workdir), checkLabels(s), checkHealth(s.Health),
	} {
		if err != nil {
			return withKind(KindInvalid, err)
		}
	}
	return nil
}

// mergeEnv lets later entries win and keeps the order of first mention. An
// entry without = removes the variable, as docker's does.
func mergeEnv(image, asked []string, tty bool) []string {
	var names []string
	value := map[string]string{}
	set := func(e string) {
		name, _, _ := strings.Cut(e, "=")
		if _, known := value[name]; !known {
			names = append(names, name)
		}
		value[name] = e
	}
	set(defaultPath)
	if tty {
		set("TERM=xterm")
	}
	for _, e := range image {
		if name, _, found := strings.Cut(e, "="); found && name != "" {
			set(e)
		}
	}
	for _, e := range asked {
		set(e)
	}
	var env []string
	for _, n := range names {
		if e := value[n]; strings.Contains(e, "=") {
			env = append(env, e)
		}
	}
	return env
}

func mergeLabels(image, asked map[string]string) map[string]string {
	if len(image)+len(asked) == 0 {
		return nil
	}
	m := make(map[string]string, len(image)+len(asked))
	for k, v := range image {
		if k != "" {
			m[k] = v
		}
	}
	for k, v := range asked {
		m[k] = v
	}
	return m
}

// addImageVolumes mounts an anonymous volume at each path that the image
// declares and the request does not cover.
func addImageVolumes(s *wherryv1.ContainerSpec, img ocispec.ImageConfig) error {
	covered := map[string]bool{}
	for _, m := range s.Mounts {
		m.Target = path.Clean(m.Target)
		covered[m.Target] = true
	}
	declared := make([]string, 0, len(img.Volumes))
	for v := range img.Volumes {
		declared = append(declared, v)
	}
	slices.Sort(declared)
	for _, v := range declared {
		target := path.Clean("/" + v)
		if covered[target] {
			continue
		}
		covered[target] = true
		if err := checkTarget(target); err != nil {
			return errorf(KindInvalid, "volume of the image: %w", err)
		}
		s.Mounts = append(s.Mounts, &wherryv1.Mount{Kind: wherryv1.Mount_KIND_VOLUME, Target: target})
	}
	if len(s.Mounts) > maxMounts {
		return errorf(KindInvalid, "%d mounts with the image's volumes; at most %d", len(s.Mounts), maxMounts)
	}
	return nil
}

// effectiveHealth fills the gaps of the request's check with the image's, and
// those left with docker's defaults. Nil: there is no check.
func effectiveHealth(asked, image *wherryv1.HealthCheck) *wherryv1.HealthCheck {
	h := &wherryv1.HealthCheck{}
	if image != nil && checkHealth(image) == nil {
		h = proto.CloneOf(image)
	}
	if asked != nil {
		if len(asked.Test) > 0 {
			h.Test = slices.Clone(asked.Test)
		}
		for _, f := range []struct {
			to   **durationpb.Duration
			from *durationpb.Duration
		}{{&h.Interval, asked.Interval}, {&h.Timeout, asked.Timeout}, {&h.StartPeriod, asked.StartPeriod}} {
			if f.from.AsDuration() > 0 {
				*f.to = f.from
			}
		}
		if asked.Retries > 0 {
			h.Retries = asked.Retries
		}
	}
	if len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil
	}
	if h.Interval.AsDuration() == 0 {
		h.Interval = durationpb.New(30 * time.Second)
	}
	if h.Timeout.AsDuration() == 0 {
		h.Timeout = durationpb.New(30 * time.Second)
	}
	if h.Retries == 0 {
		h.Retries = 3
	}
	return h
}
