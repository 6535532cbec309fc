// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"wherry.example/wherry/api/wherryv1"
)

// imageConfig is an image's configuration with docker's health check, which
// the OCI specification left out.
type imageConfig struct {
	ocispec.Image
	Extra struct {
		Healthcheck *struct {
			Test                           []string
			Interval, Timeout, StartPeriod time.Duration
			Retries                        int
		}
	} `json:"config"`
}

// UnmarshalJSON reads the configuration twice: the embedded one has a field of the same name.
func (c *imageConfig) UnmarshalJSON(b []byte) error {
	if err := json.Unmarshal(b, &c.Image); err != nil {
		return err
	}
	type extra struct {
		Config any `json:"config"`
	}
	return json.Unmarshal(b, &extra{&c.Extra})
}

func (c *imageConfig) health() *wherryv1.HealthCheck {
	h := c.Extra.Healthcheck
	if h == nil || len(h.Test) == 0 {
		return nil
	}
	return &wherryv1.HealthCheck{
		Test: h.Test, Interval: duration(h.Interval), Timeout: duration(h.Timeout),
		StartPeriod: duration(h.StartPeriod), Retries: uint32(min(max(h.Retries, 0), 1000)),
	}
}

// duration leaves unset what is zero or nonsense.
func duration(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}

// apiConfig is what the API shows of a configuration.
func apiConfig(c *imageConfig) *wherryv1.ImageConfig {
	o := c.Image.Config
	return &wherryv1.ImageConfig{
		Entrypoint: o.Entrypoint, Command: o.Cmd, Env: o.Env, Workdir: o.WorkingDir, User: o.User,
		Labels: o.Labels, ExposedPorts: slices.Sorted(maps.Keys(o.ExposedPorts)),
		Volumes: slices.Sorted(maps.Keys(o.Volumes)), StopSignal: o.StopSignal,
		Health: c.health(), Author: c.Author,
	}
}
