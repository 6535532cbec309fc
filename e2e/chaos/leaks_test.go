// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// machine is what containers could leave behind on a machine, as a container
// sees it that may look: the machine's links, mounts, processes and cgroups.
func (g *rig) machine() map[string][]string {
	g.t.Helper()
	const mark = "--next--\n"
	names := []string{"links", "mounts", "processes", "cgroups"}
	script := strings.Join([]string{"ls /sys/class/net", "cat /host/proc/1/mounts", "ps /host/proc", "find /host/cgroup", ""}, "\necho --next--\n")
	r := g.TryWith(strings.NewReader(script), "run", "--rm", "-i", "--network", "host", "--cap-add", "SYS_PTRACE",
		"-v", "/proc:/host/proc:ro", "-v", "/sys/fs/cgroup:/host/cgroup:ro", g.image, "shell")
	parts := strings.Split(strings.TrimPrefix(r.Stdout, "ready\n"), mark)
	if r.Code != 0 || len(parts) != len(names)+1 || strings.Contains(r.Stdout, "exit ") {
		g.t.Fatalf("look at the machine: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	out := map[string][]string{}
	for i, n := range names {
		out[n] = normal(parts[i])
	}
	return out
}

var (
	longID = regexp.MustCompile(`[0-9a-f]{64}`)
	number = regexp.MustCompile(`\d+`)
)

// normal takes out what differs from time to time: ids and numbers. Kernel
// threads, which have no command line, come and go.
func normal(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line = number.ReplaceAllString(longID.ReplaceAllString(strings.TrimSpace(line), "ID"), "N")
		if line != "" && line != "N" {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

// compareMachine wants nothing left behind.
func (g *rig) compareMachine(before map[string][]string) {
	g.t.Helper()
	after := g.machine()
	for what, list := range before {
		if diff := cmp.Diff(list, after[what]); diff != "" {
			g.t.Errorf("%s differ (-before +after):\n%s", what, diff)
		}
	}
}
