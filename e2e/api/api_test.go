// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package api promises what a machine's API does with those whom it does not
// know, with those who may not do all, with nonsense, and with callers who
// vanish: each gets one clear answer, and the next good call works.
package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const tools = "localhost/tools:1"

// target is the machine under test and those who know it.
type target struct {
	m                       *vmtest.Machine
	admin, operator, reader *vmtest.User
}

func TestAPI(t *testing.T) {
	x := target{admin: vmtest.NewUser(t), operator: vmtest.NewUser(t), reader: vmtest.NewUser(t)}
	registry := newStallingRegistry(t)
	x.m = vmtest.Start(t, vmtest.Options{DiskBytes: 768 << 20, Config: x.admin.Config(
		"  - {key: '"+x.operator.PublicKey+"', role: operator}", "  - {key: '"+x.reader.PublicKey+"', role: reader}",
		"containers: {allowedHostPaths: [/proc]}", "registries: [{host: '"+registry.guest+"', plainHTTP: true}]", "")})
	for _, u := range []*vmtest.User{x.admin, x.operator, x.reader} {
		u.Knows(x.m)
	}
	t.Run("strangers", x.strangers)
	t.Run("roles", x.roles)
	archive := fixture.Archive(t, tools, fixture.Toybox(t))
	x.admin.Run("load", "-i", archive)
	t.Run("nonsense", x.nonsense)
	t.Run("connections", x.connections)
	t.Run("callers who vanish", func(t *testing.T) { x.vanish(t, registry, archive) })
	t.Run("a full disk", func(t *testing.T) { x.fullDisk(t, registry) })
}

// well says that a good call works, and that nothing is left of bad ones.
func (x target) well(t *testing.T) {
	t.Helper()
	if out := x.admin.Run("ps", "-aq"); out != "" {
		t.Errorf("containers are left: %s", x.admin.Run("ps", "-a"))
	}
	if out := x.admin.Run("volume", "ls", "-q"); out != "" {
		t.Errorf("volumes are left: %s", out)
	}
	if out := x.admin.Run("run", "--rm", tools, "echo", "well"); out != "well\n" {
		t.Errorf("a good call answers %q", out)
	}
}

// create asks for a container and returns only the error.
func create(c *client.Client, spec *wherryv1.ContainerSpec) error {
	if spec.Image == "" {
		spec.Image = tools
	}
	_, err := c.Containers.CreateContainer(context.Background(), connect.NewRequest(&wherryv1.CreateContainerRequest{Spec: spec}))
	return err
}

func labels(n int) map[string]string {
	m := make(map[string]string, n)
	for i := range n {
		m[fmt.Sprint("label", i)] = "x"
	}
	return m
}

// nonsense is refused with a code that says whose fault it is.
func (x target) nonsense(t *testing.T) {
	c := x.admin.Client(x.m)
	long := strings.Repeat("n", 1<<20)
	for what, spec := range map[string]*wherryv1.ContainerSpec{
		"64 MiB":              {Env: []string{"A=" + strings.Repeat("x", 64<<20)}},
		"a million labels":    {Labels: labels(1e6)},
		"a name of 1 MiB":     {Name: long},
		"a long name":         {Name: long[:300]},
		"an image of 100 KiB": {Image: long[:100<<10]},
		"a NUL in a name":     {Name: "a\x00b"},
		"a NUL in a command":  {Command: []string{"echo", "a\x00b"}},
		"a NUL in an env":     {Env: []string{"A=a\x00b"}},
		"a name with ..":      {Name: "../../etc"},
		"a hostname with /":   {Hostname: "../x"},
		"an image with ..":    {Image: "../../etc/passwd"},
		"negative pids":       {Resources: &wherryv1.Resources{Pids: -5}},
		"negative CPUs":       {Resources: &wherryv1.Resources{NanoCpus: -1}},
		"too much memory":     {Resources: &wherryv1.Resources{MemoryBytes: 1 << 63}},
		"too little memory":   {Resources: &wherryv1.Resources{MemoryBytes: 1}},
		"a negative limit":    {Ulimits: []*wherryv1.Ulimit{{Name: "nofile", Soft: -7, Hard: -9}}},
		"an unknown signal":   {StopSignal: "SIGNAL"},
		"an unknown network":  {Networks: []*wherryv1.NetworkAttachment{{Network: "../x"}}},
		"a port of 70000":     {Ports: []*wherryv1.PortMapping{{HostPort: 70000, ContainerPort: 1}}},
		"a range beyond all":  {Ports: []*wherryv1.PortMapping{{HostPort: 65000, ContainerPort: 1, Count: 4e9}}},
		"a volume with ..":    {Mounts: []*wherryv1.Mount{{Source: "../../machine", Target: "/x"}}},
		"a relative target":   {Mounts: []*wherryv1.Mount{{Source: "data", Target: "x"}}},
		"a target of /":       {Mounts: []*wherryv1.Mount{{Source: "data", Target: "/"}}},
		"a bind of the state": {Mounts: []*wherryv1.Mount{{Kind: wherryv1.Mount_KIND_BIND, Source: "/state", Target: "/x"}}},
		"an unknown kind":     {Mounts: []*wherryv1.Mount{{Kind: 77, Source: "data", Target: "/x"}}},
		"an unknown mode":     {NetworkMode: 77},
		"a sysctl of all":     {Sysctls: map[string]string{"kernel.panic": "1"}},
		"a capability":        {CapAdd: []string{"CAP_EVERYTHING"}},
		"an OOM score":        {OomScoreAdjSet: true, OomScoreAdj: -5000},
	} {
		refused(t, what, create(c, spec))
	}
	x.nonsenseNames(t, c)
	x.well(t)
}

func (x target) nonsenseNames(t *testing.T, c *client.Client) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"../x", "a\x00b", "", strings.Repeat("n", 60<<10), strings.Repeat("../", 20) + "etc/passwd", "a\nb", "-x"} {
		what := fmt.Sprintf("%.20q", name)
		_, err := c.Volumes.CreateVolume(ctx, connect.NewRequest(&wherryv1.CreateVolumeRequest{Name: name}))
		if name != "" { // an empty name asks for one to be made up
			refused(t, "volume "+what, err)
		} else if _, err := c.Volumes.PruneVolumes(ctx, connect.NewRequest(&wherryv1.PruneVolumesRequest{All: true})); err != nil {
			t.Error(err)
		}
		_, err = c.Volumes.RemoveVolume(ctx, connect.NewRequest(&wherryv1.RemoveVolumeRequest{Name: name}))
		refused(t, "remove volume "+what, err)
		_, err = c.Networks.CreateNetwork(ctx, connect.NewRequest(&wherryv1.CreateNetworkRequest{Name: name}))
		refused(t, "network "+what, err)
		_, err = c.Networks.RemoveNetwork(ctx, connect.NewRequest(&wherryv1.RemoveNetworkRequest{Name: name}))
		refused(t, "remove network "+what, err)
		_, err = c.Containers.InspectContainer(ctx, connect.NewRequest(&wherryv1.InspectContainerRequest{Container: name}))
		refused(t, "container "+what, err)
		_, err = c.Containers.RemoveContainer(ctx, connect.NewRequest(&wherryv1.RemoveContainerRequest{Container: name, Force: true}))
		refused(t, "remove container "+what, err)
		_, err = c.Images.InspectImage(ctx, connect.NewRequest(&wherryv1.InspectImageRequest{Image: name}))
		refused(t, "image "+what, err)
		_, err = c.Images.TagImage(ctx, connect.NewRequest(&wherryv1.TagImageRequest{Image: tools, Name: name}))
		refused(t, "tag "+what, err)
	}
}

// refused wants an error that is the caller's fault and fits on a screen.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	var e *connect.Error
	if !errors.As(err, &e) {
		t.Errorf("%s is not refused: %v", what, err)
		return
	}
	switch e.Code() {
	case connect.CodeInvalidArgument, connect.CodeResourceExhausted, connect.CodeNotFound, connect.CodePermissionDenied, connect.CodeOutOfRange:
	default:
		t.Errorf("%s: code %v: %v", what, e.Code(), e)
	}
	if e.Message() == "" || len(e.Message()) > 1000 || strings.ContainsAny(e.Message(), "\x00") {
		t.Errorf("%s: a message of %d bytes: %.300q", what, len(e.Message()), e.Message())
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
