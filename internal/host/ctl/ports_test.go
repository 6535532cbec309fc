// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/known"
)

// A port of this computer that is taken keeps the container from starting, as
// with docker; one that the machine chose only costs a warning.
func TestPortTaken(t *testing.T) {
	r := newRig(t)
	r.Publish = func(_ context.Context, _ known.Machine, ports []*wherryv1.PortMapping) error {
		if len(ports) == 0 {
			t.Error("asked for no ports")
		}
		return errors.New("port 8080 is in use")
	}
	spec := func(name string, port uint32) *wherryv1.ContainerSpec {
		s := aSpec(name, "nginx")
		s.Ports = []*wherryv1.PortMapping{{HostPort: port, ContainerPort: 80}}
		return s
	}
	phase := func(name string) wherryv1.ContainerPhase { return r.toy.containers[name].phase }
	for _, detach := range []bool{true, false} {
		err := r.Run(t.Context(), spec("web", 8080), RunOptions{Detach: detach})
		if ExitCode(err) != 125 || !strings.Contains(err.Error(), "in use") || phase("web") != wherryv1.ContainerPhase_CONTAINER_PHASE_CREATED {
			t.Errorf("detach %v: %v, %v", detach, err, phase("web"))
		}
		if err := r.Remove(t.Context(), []string{"web"}, false, false); err != nil {
			t.Fatal(err)
		}
	}
	gone := spec("gone", 8080)
	gone.AutoRemove = true
	if err := r.Run(t.Context(), gone, RunOptions{Detach: true}); err == nil || r.toy.containers["gone"] != nil {
		t.Errorf("--rm: %v, it is still there", err)
	}
	if err := r.Create(t.Context(), spec("later", 8080), RunOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), []string{"later"}, false, false, ""); err == nil || phase("later") != wherryv1.ContainerPhase_CONTAINER_PHASE_CREATED {
		t.Errorf("start: %v, %v", err, phase("later"))
	}
	r.took()
	err := r.Run(t.Context(), spec("any", 0), RunOptions{Detach: true})
	if _, stderr := r.took(); err != nil || !strings.Contains(stderr, "warning: the ports are published") {
		t.Errorf("a port of the machine's choice: %v, %q", err, stderr)
	}
}

// A removed container's ports lead nowhere any more, but for those that another has.
func TestPortsOfTheRemoved(t *testing.T) {
	r := newRig(t)
	var taken []string
	r.Unpublish = func(_ context.Context, _ known.Machine, ports []*wherryv1.PortMapping) error {
		for _, p := range ports {
			taken = append(taken, strconv.Itoa(int(p.HostPort))+"/"+p.Protocol)
		}
		return nil
	}
	r.run("other")
	r.toy.containers["other"].spec.Ports = []*wherryv1.PortMapping{{HostPort: 8080, ContainerPort: 80}}
	r.run("web")
	r.toy.containers["web"].spec.Ports = []*wherryv1.PortMapping{{HostPort: 8080, ContainerPort: 80}, {HostPort: 9000, ContainerPort: 90, Count: 2, Protocol: "udp"}}
	if err := r.Remove(t.Context(), []string{"web"}, true, false); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(taken, " "); got != "9000/udp 9001/udp" && got != "9000/udp 9001/udp 9000/udp 9001/udp" {
		t.Errorf("taken back: %s", got)
	}
}

func TestPort(t *testing.T) {
	r := newRig(t)
	r.run("web")
	r.toy.containers["web"].spec.Ports = []*wherryv1.PortMapping{
		{HostPort: 8080, ContainerPort: 80, Count: 2}, {HostAddress: "192.0.2.7", HostPort: 53, ContainerPort: 53, Protocol: "udp"}}
	for _, c := range []struct{ port, want string }{
		{"", "80/tcp -> :8080\n81/tcp -> :8081\n53/udp -> 192.0.2.7:53\n"},
		{"81", ":8081\n"},
		{"53/udp", "192.0.2.7:53\n"},
		{"53", ""},
		{"0", ""},
		{"x", ""},
		{"80/sctp", ""},
	} {
		err := r.Port(t.Context(), "web", c.port)
		if out, _ := r.took(); out != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v", c.port, out, err)
		}
	}
}

func TestPruneContainers(t *testing.T) {
	r := newRig(t)
	r.run("up")
	r.run("ended")
	r.toy.containers["ended"].phase = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED
	r.run("new")
	r.toy.containers["new"].phase = wherryv1.ContainerPhase_CONTAINER_PHASE_CREATED
	if err := r.PruneContainers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, _ := r.took(); len(r.toy.containers) != 1 || r.toy.containers["up"] == nil || !strings.Contains(out, "ended\n") {
		t.Errorf("%q; left: %v", out, r.toy.containers)
	}
}

// Nobody takes their own key away by mistake.
func TestConfigThatLocksOut(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "new.yaml")
	apply := func(document string, dryRun, force bool) error {
		t.Helper()
		if err := os.WriteFile(file, []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
		return r.ApplyConfig(t.Context(), file, dryRun, force)
	}
	with := func(role string) string {
		return "version: v1\naccess: {keys: [{key: '" + r.key + "', role: " + role + "}]}\n"
	}
	for _, document := range []string{"version: v1\n", with("operator")} {
		if err := apply(document, false, false); err == nil || !strings.Contains(err.Error(), "lock you out") || len(r.toy.applied) != 0 {
			t.Errorf("%q: %v", document, err)
		}
		r.took()
		if err := apply(document, true, false); err != nil {
			t.Errorf("%q: diff: %v", document, err)
		}
		if _, stderr := r.took(); !strings.Contains(stderr, "lock you out") {
			t.Errorf("%q: diff does not warn: %q", document, stderr)
		}
	}
	// What is no document at all is for the machine to judge.
	for _, document := range []string{with("admin"), "nonsense: ["} {
		if err := apply(document, false, false); err != nil {
			t.Errorf("%q: %v", document, err)
		}
	}
	if err := apply("version: v1\n", false, true); err != nil || len(r.toy.applied) != 3 {
		t.Errorf("--force: %v, applied %d", err, len(r.toy.applied))
	}
}
