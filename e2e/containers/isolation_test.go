// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"strings"
	"time"
)

// shell runs commands of the tools one after the other in one container, and
// returns what each wrote, with a line "exit N" where it failed.
func (g *rig) shell(flags string, commands ...string) []string {
	g.t.Helper()
	const mark = "--next--"
	var script strings.Builder
	for _, c := range commands {
		script.WriteString(c + "\necho " + mark + "\n")
	}
	args := append([]string{"run", "--rm", "-i"}, strings.Fields(flags)...)
	r := g.TryWith(strings.NewReader(script.String()), append(args, g.tools(), "shell")...)
	parts := strings.Split(strings.TrimPrefix(r.Stdout, "ready\n"), mark+"\n")
	if r.Code != 0 || len(parts) != len(commands)+1 {
		g.t.Fatalf("run %s: exit code %d, %d answers to %d commands:\n%s%s", flags, r.Code, len(parts)-1, len(commands), r.Stdout, r.Stderr)
	}
	return parts[:len(commands)]
}

// Bits of capability sets.
const (
	dockerCaps   = "00000000a80425fb"
	withNetAdmin = "00000000a80435fb"
)

// defaults: what a container gets that asks for nothing is safe.
func defaults(g *rig) {
	got := g.shell("", "id", "cat /proc/kcore", "write /proc/sys/kernel/hostname x", "ls /sys/firmware", "mount",
		"mknod /tmp/disk 254 0", "write /sys/fs/cgroup/memory.max max", "ps", "cgroup memory.max", "stat /dev/shm", "limits")
	for i, want := range [][]string{
		{"uid 0 gid 0", "CapEff: " + dockerCaps, "CapBnd: " + dockerCaps, "CapInh: 0000000000000000", "NoNewPrivs: 0", "Seccomp: 2"},
		{""},
		{"exit 1"},
		{""},
		{"exit 1"},
		{"exit 1"},
		{"exit 1"},
		{"1 /toybox shell\n"},
		{"max"},
		{"dtrwxrwxrwx"},
		{"Max open files"},
	} {
		g.want(got[i], want...)
	}
	for i, command := range map[int]string{1: "/proc/kcore", 3: "/sys/firmware"} {
		if text := strings.TrimPrefix(got[i], "exit 1\n"); text != "" {
			g.t.Errorf("%s shows %.200q", command, text)
		}
	}
	if processes := strings.Count(got[7], "\n"); processes != 1 {
		g.t.Errorf("the container sees %d processes:\n%s", processes, got[7])
	}
}

// asked: what a container asks for it gets.
func asked(g *rig) {
	got := g.shell("--user 1000 -e A=1 -e B -w /tmp --read-only --tmpfs /scratch:size=8m,mode=1777 --hostname box --security-opt no-new-privileges "+
		"--ulimit core=1000:2000 --sysctl net.core.somaxconn=77 --shm-size 1m --add-host peer:192.0.2.9 --memory 64m --cpus 0.5 --pids-limit 50 --group-add 2000",
		"id", "env", "pwd", "write /x y", "write /scratch/x y", "fill /scratch/big 16", "hostname", "limits", "sysctl net.core.somaxconn",
		"cat /etc/hosts", "cgroup memory.max", "cgroup cpu.max", "cgroup pids.max", "mounts")
	for i, want := range [][]string{
		{"uid 1000 gid 1000 groups [1000 2000]", "CapEff: 0000000000000000", "CapPrm: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"},
		{"A=1\n", "FROM_IMAGE=yes\n", "HOSTNAME=box\n"},
		{"/tmp\n"},
		{"exit 1"},
		{""},
		{"exit 1", "wrote 7 MiB"},
		{"box\n"},
		{"Max core file size        1000                 2000 "},
		{"77\n"},
		{"192.0.2.9\tpeer"},
		{"67108864\n"},
		{"50000 100000"},
		{"50\n"},
		{"size=1024k"},
	} {
		g.want(got[i], want...)
	}
	if strings.Contains(got[1], "B=") {
		g.t.Error("a variable that is not set here is set there")
	}
	if strings.Contains(got[4], "exit") {
		g.t.Errorf("a tmpfs can't be written to: %s", got[4])
	}
	g.want(g.says("--cap-drop ALL", "id"), "CapEff: 0000000000000000", "CapBnd: 0000000000000000")
	g.want(g.says("--cap-add NET_ADMIN", "id"), "CapEff: "+withNetAdmin)
	if r := g.run("--rm --pids-limit 20", "fork", "200"); !strings.Contains(r.Stderr, "resource temporarily unavailable") {
		g.t.Errorf("more processes than allowed: %+v", r)
	}
}

// networks that are none, and the machine's own.
func networkModes(g *rig) {
	none := g.shell("--network none", "addrs", "get http://"+g.r.Guest+"/v2/")
	if strings.TrimSpace(none[0]) != "lo 127.0.0.1/8\nlo ::1/128" {
		g.t.Errorf("a container without a network has %s", none[0])
	}
	g.want(none[1], "exit 1")
	host := g.shell("--network host", "addrs", "hostname", "get http://"+g.r.Guest+"/v2/", "cat /etc/resolv.conf")
	g.want(host[0], " 10.0.2.15/24")
	g.want(host[1], "wherry\n")
	g.want(host[2], "{}")
	g.want(host[3], "nameserver")
	bridged := g.shell("", "addrs", "get http://"+g.r.Guest+"/v2/")
	g.want(bridged[1], "{}")
	if strings.Contains(bridged[0], "10.0.2.15") {
		g.t.Errorf("a container has the machine's address: %s", bridged[0])
	}
}

// outOfMemory: the container that takes more than its limit is killed, and it says so.
func outOfMemory(g *rig) {
	if r := g.run("--name glutton --memory 48m", "hog", "200"); r.Code != 137 {
		g.t.Fatalf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if s := g.inspect("glutton").Container.State; !s.OOMKilled || s.ExitCode != 137 {
		g.t.Errorf("its state is %+v", s)
	}
	g.want(g.Run("ps", "-a"), "Exited (137, out of memory)")
	// The two clocks differ a little, and until is of this one.
	g.await(30*time.Second, "the events of its end", func() (bool, string) {
		out := g.Run("events", "--since", "5m", "--until", "0s", "--filter", "container=glutton")
		return strings.Contains(out, "container oom glutton") && strings.Contains(out, "container die glutton") && strings.Contains(out, "exitCode=137"), out
	})
	// A child that is killed is not the container's end.
	g.start("parent", "--memory 48m", "sleep", "inf")
	if r := g.Try("exec", "parent", "/toybox", "hog", "200"); r.Code != 137 {
		g.t.Errorf("a command in it ended with %d", r.Code)
	}
	if !running(g.inspect("parent")) {
		g.t.Error("the container ended with a command in it")
	}
}

// volumeLimit: a volume holds what it may, and nobody inside can change that.
func volumeLimit(g *rig) {
	g.Run("volume", "create", "--size", "16m", "small")
	for _, user := range []string{"", "--cap-add ALL"} {
		got := g.shell(user+" -v small:/data", "fill /data/f 64", "project 0 /data/f", "project 0 /data", "fill /data/f 64", "fill /data/g 64", "rm /data/f", "rm /data/g")
		for _, i := range []int{0, 3} {
			if full := strings.Contains(got[i], "wrote 15 MiB") || strings.Contains(got[i], "wrote 16 MiB"); !full || !strings.Contains(got[i], "exit 1") {
				g.t.Errorf("%q fill says %q", user, got[i])
			}
		}
		for _, i := range []int{1, 2} {
			if !strings.Contains(got[i], "exit 1") || strings.Contains(got[i], "set by") || strings.Contains(got[i], "project 0\n") {
				g.t.Errorf("%q project says %q", user, got[i])
			}
		}
		g.want(got[4], "exit 1")
	}
	if r := g.run("--rm -v small:/data", "fill", "/data/f", "64"); !strings.Contains(r.Stderr, "no space left on device") {
		g.t.Errorf("a full volume says %q", r.Stderr)
	}
	var v []struct {
		LimitBytes string `json:"limitBytes"`
		UsedBytes  string `json:"usedBytes"`
	}
	parse(g.t, g.Run("volume", "inspect", "small"), &v)
	if len(v) != 1 || v[0].LimitBytes != "16777216" || len(v[0].UsedBytes) != 8 {
		g.t.Errorf("the volume is %+v", v)
	}
	// The machine's own disk has room.
	g.want(g.says("", "fill", "/tmp/f", "64"), "wrote 64 MiB")
}

// systemContainers are there for the machine alone.
func systemContainers(g *rig) {
	var all []struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		System bool   `json:"system"`
	}
	var id string
	g.await(time.Minute, "system container", func() (bool, string) {
		parse(g.t, g.Run("-o", "json", "ps", "--system"), &all)
		for _, c := range all {
			if c.Name == "agent" && c.System {
				id = c.ID
			}
		}
		return id != "", fmt.Sprintf("%+v", all)
	})
	if out := g.Run("ps", "-a", "--no-trunc"); strings.Contains(out, id) || strings.Contains(out, "agent") {
		g.t.Errorf("users see it: %s", out)
	}
	for _, name := range []string{"agent", id} {
		for _, command := range [][]string{{"stop", name}, {"kill", name}, {"rm", "-f", name}, {"restart", name}, {"inspect", name}, {"logs", name}, {"exec", name, "/toybox", "true"},
			{"cp", name + ":/etc/passwd", "-"}, {"wait", name}, {"start", name}, {"stats", "--no-stream", name}} {
			if r := g.Try(command...); r.Code == 0 || !strings.Contains(r.Stderr, "no ") {
				g.t.Errorf("%v: exit code %d: %s", command, r.Code, r.Stderr)
			}
		}
	}
	parse(g.t, g.Run("-o", "json", "ps", "--system"), &all)
	for _, c := range all {
		if c.Name == "agent" && c.ID != id {
			g.t.Error("it is another one now")
		}
	}
}
