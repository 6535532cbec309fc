// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"regexp"
	"strings"
	"testing"

	"wherry.example/wherry/internal/vmtest"
)

// settings are some of each kind that hardening promises.
var settings = map[string]string{
	"kernel/kptr_restrict": "2", "kernel/dmesg_restrict": "1", "kernel/randomize_va_space": "2", "kernel/perf_event_paranoid": "3",
	"kernel/unprivileged_bpf_disabled": "1", "kernel/kexec_load_disabled": "1", "kernel/sysrq": "0", "kernel/panic_on_oops": "1",
	"fs/protected_symlinks": "1", "fs/protected_fifos": "2", "net/ipv4/tcp_rfc1337": "1", "net/ipv4/conf/all/accept_redirects": "0",
}

// kernel looks at the machine from a container that may read its /proc and /sys.
func kernel(t *testing.T, u *vmtest.User) {
	paths := []string{"proc/1/mounts", "proc/1/oom_score_adj", "sys/fs/cgroup/cgroup.controllers", "sys/fs/cgroup/cgroup.subtree_control"}
	for name := range settings {
		paths = append(paths, "proc/sys/"+name)
	}
	got := read(t, u, paths)
	for _, want := range []string{
		`/ squashfs ro,`, `/run tmpfs rw,nosuid,nodev`, `/tmp tmpfs rw,nosuid,nodev`,
		`/state xfs rw,.*prjquota`, `/sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec`,
		`/proc proc rw,nosuid,nodev,noexec`, `/sys sysfs rw,nosuid,nodev,noexec`, `/dev/pts devpts `, `/dev/shm tmpfs rw,nosuid,nodev,noexec`,
	} {
		if !regexp.MustCompile(`(?m)^\S+ ` + want).MatchString(got["proc/1/mounts"]) {
			t.Errorf("no mount %q in\n%s", want, got["proc/1/mounts"])
		}
	}
	all, handed := got["sys/fs/cgroup/cgroup.controllers"], got["sys/fs/cgroup/cgroup.subtree_control"]
	if all != handed || len(strings.Fields(all)) < 5 {
		t.Errorf("of the controllers %q these are handed on: %q", all, handed)
	}
	for name, want := range settings {
		if is := got["proc/sys/"+name]; is != want {
			t.Errorf("%s is %q, not %s", name, is, want)
		}
	}
	if score := got["proc/1/oom_score_adj"]; score != "-1000" {
		t.Errorf("init's OOM score is %q", score)
	}
	if score := daemonScore(t, u); score != "-999" {
		t.Errorf("wherryd's OOM score is %q", score)
	}
	if score := u.Run("run", "--rm", tools, "cat", "/proc/self/oom_score_adj"); score != "0\n" {
		t.Errorf("a container's OOM score is %q", score)
	}
	allowedPaths(t, u)
}

// read returns the machine's files by their path.
func read(t *testing.T, u *vmtest.User, paths []string) map[string]string {
	t.Helper()
	var script strings.Builder
	for _, p := range paths {
		script.WriteString("echo == " + p + "\ncat /host/" + p + "\n")
	}
	r := u.TryWith(strings.NewReader(script.String()), "run", "--rm", "-i", "--network", "host",
		"-v", "/proc:/host/proc:ro", "-v", "/sys:/host/sys:ro", tools, "shell")
	if r.Code != 0 {
		t.Fatalf("%+v", r)
	}
	out := map[string]string{}
	for _, part := range strings.Split(r.Stdout, "== ")[1:] {
		path, text, _ := strings.Cut(part, "\n")
		out[path] = strings.TrimSpace(text)
	}
	return out
}

// daemonScore finds wherryd, one of the first processes.
func daemonScore(t *testing.T, u *vmtest.User) string {
	t.Helper()
	var paths []string
	pids := regexp.MustCompile(`\b\d+\b`).FindAllString(u.Run("run", "--rm", "-v", "/proc:/host/proc:ro", tools, "ls", "/host/proc"), -1)
	for _, pid := range pids {
		paths = append(paths, "proc/"+pid+"/comm", "proc/"+pid+"/oom_score_adj")
	}
	got := read(t, u, paths)
	for _, pid := range pids {
		if got["proc/"+pid+"/comm"] == "wherryd" {
			return got["proc/"+pid+"/oom_score_adj"]
		}
	}
	return "of nobody: there is no wherryd"
}

func allowedPaths(t *testing.T, u *vmtest.User) {
	t.Helper()
	r := u.Try("run", "--rm", "-v", "/proc:/host/proc", tools, "write", "/host/proc/sys/kernel/panic", "1")
	if r.Code == 0 || !strings.Contains(r.Stderr, "read-only") {
		t.Errorf("write to an allowed path: %+v", r)
	}
	if r := u.Try("run", "--rm", "-v", "/proc:/host/proc:ro", tools, "ls", "/host/proc/1/root/"); r.Code == 0 {
		t.Errorf("init's root can be reached: %s", r.Stdout)
	}
	r = u.Try("run", "--rm", "-v", "/etc:/host/etc:ro", tools, "true")
	if r.Code == 0 || !strings.Contains(r.Stderr, "allowedHostPaths") {
		t.Errorf("a path that is not allowed: %+v", r)
	}
}
