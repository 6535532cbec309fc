// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/ctl/spec"
)

// ListOptions are the flags of ps.
type ListOptions struct {
	All, Quiet, NoTrunc, System bool
	Last                        int
	Filters                     []string
	Format                      string // table, json, or a Go template
}

// containerRow is a container as ps shows it; templates use its fields, which
// have docker's names.
type containerRow struct {
	ID, Image, Command, CreatedAt, RunningFor, Ports, State, Status, Names, Labels, Mounts, Networks, Size string
	labels                                                                                                 map[string]string
}

// Label is for templates: {{.Label "name"}}.
func (r containerRow) Label(name string) string { return r.labels[name] }

// PS lists containers.
func (c *CLI) PS(ctx context.Context, o ListOptions) error {
	list, err := c.containers(ctx, o)
	if err != nil {
		return err
	}
	switch {
	case o.Quiet:
		for _, x := range list {
			fmt.Fprintln(c.Out, c.id(x, o.NoTrunc))
		}
		return nil
	case c.JSON || o.Format == "json":
		return printList(c, list)
	}
	rows := make([]containerRow, 0, len(list))
	for _, x := range list {
		rows = append(rows, c.row(x, o.NoTrunc))
	}
	if o.Format != "" && o.Format != "table" {
		return printTemplate(c, strings.TrimPrefix(o.Format, "table "), rows)
	}
	lines := make([][]string, 0, len(rows))
	for _, r := range rows {
		lines = append(lines, []string{r.ID, r.Image, r.Command, r.RunningFor, r.Status, r.Ports, r.Names})
	}
	return table(c.Out, "CONTAINER ID\tIMAGE\tCOMMAND\tCREATED\tSTATUS\tPORTS\tNAMES", lines)
}

// containers asks for the list and applies the filters that the machine does not know.
func (c *CLI) containers(ctx context.Context, o ListOptions) ([]*wherryv1.Container, error) {
	f, err := parseFilters(o.Filters)
	if err != nil {
		return nil, err
	}
	req := &wherryv1.ListContainersRequest{All: o.All || f.needsAll || o.Last > 0, LabelFilter: f.labels, NameFilter: f.name, System: o.System}
	api, err := c.API(ctx)
	if err != nil {
		return nil, err
	}
	res, err := unary(ctx, api.Containers.ListContainers, req)
	if err != nil {
		return nil, err
	}
	list := slices.DeleteFunc(res.Containers, func(x *wherryv1.Container) bool { return !f.match(x) })
	slices.SortFunc(list, func(a, b *wherryv1.Container) int {
		return cmp.Or(b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime()), cmp.Compare(a.Name, b.Name))
	})
	if o.Last > 0 {
		list = list[:min(o.Last, len(list))]
	}
	return list, nil
}

// filters are ps --filter's.
type filters struct {
	labels                          map[string]string
	name                            string
	ids, status, health, exited, by []string
	needsAll                        bool
}

func parseFilters(list []string) (filters, error) {
	f := filters{labels: map[string]string{}}
	for _, text := range list {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return f, fmt.Errorf("--filter %q: want key=value", text)
		}
		switch key {
		case "label":
			name, v, _ := strings.Cut(value, "=")
			f.labels[name] = v
		case "name":
			f.name = value
		case "id":
			f.ids = append(f.ids, value)
		case "status":
			f.status, f.needsAll = append(f.status, value), true
		case "health":
			f.health = append(f.health, value)
		case "exited":
			f.exited, f.needsAll = append(f.exited, value), true
		case "ancestor":
			f.by = append(f.by, value)
		default:
			return f, fmt.Errorf("--filter %q: want label=, name=, id=, status=, health=, exited= or ancestor=", text)
		}
	}
	return f, nil
}

func (f filters) match(x *wherryv1.Container) bool {
	any := func(list []string, ok func(string) bool) bool { return len(list) == 0 || slices.ContainsFunc(list, ok) }
	return any(f.ids, func(v string) bool { return strings.HasPrefix(x.Id, v) }) &&
		any(f.status, func(v string) bool { return v == phase(x.State) }) &&
		any(f.health, func(v string) bool { return v == health(x.State) }) &&
		any(f.exited, func(v string) bool {
			return phase(x.State) == "exited" && v == strconv.Itoa(int(x.State.GetExitCode()))
		}) &&
		any(f.by, func(v string) bool { return v == x.Image || v == x.ImageDigest })
}

// phase is a container's phase in one lower-case word.
func phase(s *wherryv1.ContainerState) string {
	return strings.ToLower(strings.TrimPrefix(s.GetPhase().String(), "CONTAINER_PHASE_"))
}

func health(s *wherryv1.ContainerState) string {
	return strings.ToLower(strings.TrimPrefix(s.GetHealth().String(), "HEALTH_STATE_"))
}

// statusLine is docker's STATUS column.
func (c *CLI) statusLine(s *wherryv1.ContainerState) string {
	since := func(t *timestamppb.Timestamp) string { return units.HumanDuration(c.now().Sub(t.AsTime())) }
	switch s.GetPhase() {
	case wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING:
		text := "Up " + since(s.StartedAt)
		switch s.Health {
		case wherryv1.HealthState_HEALTH_STATE_STARTING:
			text += " (health: starting)"
		case wherryv1.HealthState_HEALTH_STATE_HEALTHY, wherryv1.HealthState_HEALTH_STATE_UNHEALTHY:
			text += " (" + health(s) + ")"
		}
		return text
	case wherryv1.ContainerPhase_CONTAINER_PHASE_PAUSED:
		return "Up " + since(s.StartedAt) + " (Paused)"
	case wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, since(s.FinishedAt))
	case wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING:
		return "Starting"
	case wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED:
		why := ""
		if s.OomKilled {
			why = ", out of memory"
		}
		return fmt.Sprintf("Exited (%d%s) %s ago", s.ExitCode, why, since(s.FinishedAt))
	case wherryv1.ContainerPhase_CONTAINER_PHASE_REMOVING:
		return "Removing"
	}
	return "Created"
}

func (c *CLI) id(x *wherryv1.Container, whole bool) string {
	if whole {
		return x.Id
	}
	return shortID(x.Id)
}

const commandWidth = 20

func (c *CLI) row(x *wherryv1.Container, whole bool) containerRow {
	command := strconv.Quote(x.Command)
	if r := []rune(x.Command); !whole && len(r) > commandWidth {
		command = strconv.Quote(string(r[:commandWidth-1]) + "…")
	}
	image := x.Image
	if name, digest, ok := strings.Cut(image, "@sha256:"); ok && !whole {
		image = name + "@" + digest[:min(8, len(digest))]
	}
	var labels, mounts, networks []string
	for k, v := range x.Labels {
		labels = append(labels, k+"="+v)
	}
	slices.Sort(labels)
	for _, m := range x.Mounts {
		mounts = append(mounts, cmp.Or(m.Source, m.Target))
	}
	for _, e := range x.Endpoints {
		networks = append(networks, e.Network)
	}
	return containerRow{
		ID: c.id(x, whole), Image: image, Command: command, CreatedAt: x.CreatedAt.AsTime().Local().Format(time.DateTime),
		RunningFor: c.age(x.CreatedAt), Ports: spec.FormatPorts(x.Ports), State: phase(x.State), Status: c.statusLine(x.State),
		Names: x.Name, Labels: strings.Join(labels, ","), Mounts: strings.Join(mounts, ","), Networks: strings.Join(networks, ","), labels: x.Labels,
	}
}

// seconds is a -t flag as the API takes it; unset is the container's own.
func seconds(n int, set bool) *durationpb.Duration {
	if !set || n < 0 {
		return nil
	}
	return durationpb.New(time.Duration(n) * time.Second)
}

// Stop stops containers, several at once.
func (c *CLI) Stop(ctx context.Context, refs []string, signal string, timeout int, set bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		_, err := unary(ctx, api.Containers.StopContainer, &wherryv1.StopContainerRequest{Container: ref, Signal: signal, Timeout: seconds(timeout, set)})
		return ref, err
	})
}

// Restart stops and starts containers, several at once.
func (c *CLI) Restart(ctx context.Context, refs []string, timeout int, set bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		_, err := unary(ctx, api.Containers.RestartContainer, &wherryv1.RestartContainerRequest{Container: ref, Timeout: seconds(timeout, set)})
		return ref, err
	})
}

// Kill sends a signal to containers.
func (c *CLI) Kill(ctx context.Context, refs []string, signal string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		_, err := unary(ctx, api.Containers.KillContainer, &wherryv1.KillContainerRequest{Container: ref, Signal: signal})
		return ref, err
	})
}

// Pause freezes containers, several at once; Unpause lets them go on.
func (c *CLI) Pause(ctx context.Context, refs []string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		_, err := unary(ctx, api.Containers.PauseContainer, &wherryv1.PauseContainerRequest{Container: ref})
		return ref, err
	})
}

// Unpause lets paused containers go on, several at once.
func (c *CLI) Unpause(ctx context.Context, refs []string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		_, err := unary(ctx, api.Containers.UnpauseContainer, &wherryv1.UnpauseContainerRequest{Container: ref})
		return ref, err
	})
}

// Top prints the processes of a container.
func (c *CLI) Top(ctx context.Context, ref string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Containers.ListProcesses, &wherryv1.ListProcessesRequest{Container: ref})
	if err != nil {
		return err
	}
	if c.JSON {
		return printList(c, res.Processes)
	}
	rows := make([][]string, 0, len(res.Processes))
	for _, p := range res.Processes {
		name := p.User
		if name == "" {
			name = strconv.Itoa(int(p.UserId))
		}
		rows = append(rows, []string{
			name, strconv.Itoa(int(p.Pid)), strconv.Itoa(int(p.Parent)), p.State, p.StartedAt.AsTime().Local().Format("Jan02 15:04:05"),
			(time.Duration(p.CpuUsec) * time.Microsecond).Round(10 * time.Millisecond).String(), units.BytesSize(float64(p.MemoryBytes)), p.Command,
		})
	}
	return table(c.Out, "USER\tPID\tPPID\tS\tSTARTED\tCPU\tMEMORY\tCOMMAND", rows)
}

// Remove removes containers, several at once.
func (c *CLI) Remove(ctx context.Context, refs []string, force, volumes bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		ports := c.portsOf(ctx, ref)
		_, err := unary(ctx, api.Containers.RemoveContainer, &wherryv1.RemoveContainerRequest{Container: ref, Force: force, Volumes: volumes})
		if err == nil {
			c.unpublish(ctx, ports)
		}
		return ref, err
	})
}

// Wait prints the exit codes of containers once they have ended.
func (c *CLI) Wait(ctx context.Context, refs []string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
		res, err := unary(ctx, api.Containers.WaitContainer, &wherryv1.WaitContainerRequest{Container: ref})
		if err != nil {
			return "", err
		}
		return strconv.Itoa(int(res.ExitCode)), nil
	})
}

// LogOptions are the flags of logs.
type LogOptions struct {
	Follow, Timestamps bool
	Since, Until, Tail string
}

// Logs prints what a container wrote, each stream to its own.
func (c *CLI) Logs(ctx context.Context, ref string, o LogOptions) error {
	req := &wherryv1.StreamContainerLogsRequest{Container: ref, Follow: o.Follow}
	var err error
	if req.Since, err = c.parseTime("--since", o.Since); err != nil {
		return err
	}
	if req.Until, err = c.parseTime("--until", o.Until); err != nil {
		return err
	}
	if o.Tail != "" && o.Tail != "all" {
		n, err := strconv.ParseUint(o.Tail, 10, 32)
		if err != nil {
			return fmt.Errorf("--tail %q: want a number of lines or all", o.Tail)
		}
		req.Tail, req.TailSet = uint32(n), true
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	p := logPrinter{cli: c, timestamps: o.Timestamps}
	return serverStream(ctx, api.Containers.StreamContainerLogs, req, p.print)
}

// logPrinter puts the time in front of each line.
type logPrinter struct {
	cli        *CLI
	timestamps bool
	partial    [2]bool // the stream's last chunk did not end its line
}

func (p *logPrinter) print(m *wherryv1.ContainerLogChunk) error {
	var w io.Writer = p.cli.Out
	if m.Stream == wherryv1.Stream_STREAM_STDERR {
		w = p.cli.Err
	}
	if !p.timestamps {
		return write(w, m.Data)
	}
	partial := &p.partial[m.Stream&1]
	stamp := m.Time.AsTime().Format(time.RFC3339Nano) + " "
	for line := range strings.Lines(string(m.Data)) {
		if !*partial {
			line = stamp + line
		}
		*partial = !strings.HasSuffix(line, "\n")
		if err := write(w, []byte(line)); err != nil {
			return err
		}
	}
	return nil
}

// EventOptions are the flags of events.
type EventOptions struct {
	Since, Until string
	Filters      []string
}

// Events prints what happens on the machine.
func (c *CLI) Events(ctx context.Context, o EventOptions) error {
	req := &wherryv1.StreamEventsRequest{}
	var err error
	if req.Since, err = c.parseTime("--since", o.Since); err != nil {
		return err
	}
	if req.Until, err = c.parseTime("--until", o.Until); err != nil {
		return err
	}
	want := map[string][]string{}
	for _, f := range o.Filters {
		key, value, ok := strings.Cut(f, "=")
		if !ok || !slices.Contains([]string{"type", "kind", "event", "container", "name"}, key) {
			return fmt.Errorf("--filter %q: want type=, event= or container=", f)
		}
		if key == "type" || key == "kind" {
			req.Kinds = append(req.Kinds, value)
			continue
		}
		want[key] = append(want[key], value)
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return serverStream(ctx, api.Containers.StreamEvents, req, func(e *wherryv1.Event) error {
		if !eventMatches(e, want) {
			return nil
		}
		if c.JSON {
			return c.printLine(e)
		}
		return write(c.Out, []byte(eventLine(e)))
	})
}

func eventMatches(e *wherryv1.Event, want map[string][]string) bool {
	if list := want["event"]; len(list) > 0 && !slices.Contains(list, e.Action) {
		return false
	}
	names := append(slices.Clone(want["container"]), want["name"]...)
	return len(names) == 0 || slices.ContainsFunc(names, func(n string) bool { return n == e.Name || (n != "" && strings.HasPrefix(e.Id, n)) })
}

func eventLine(e *wherryv1.Event) string {
	var attributes []string
	for k, v := range e.Attributes {
		attributes = append(attributes, k+"="+v)
	}
	slices.Sort(attributes)
	line := fmt.Sprintf("%s %s %s %s", e.Time.AsTime().Local().Format("2006-01-02T15:04:05.000000000Z07:00"), e.Kind, e.Action, cmp.Or(e.Name, shortID(e.Id)))
	if len(attributes) > 0 {
		line += " (" + strings.Join(attributes, ", ") + ")"
	}
	return line + "\n"
}

// Stats prints what containers use, again and again unless once.
func (c *CLI) Stats(ctx context.Context, refs []string, once bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	redraw := !once && !c.JSON && isTerminal(c.Out)
	return serverStream(ctx, api.Containers.StreamStats, &wherryv1.StreamStatsRequest{Containers: refs, Once: once}, func(s *wherryv1.StatsSample) error {
		if c.JSON {
			return c.printLine(s)
		}
		if redraw {
			fmt.Fprint(c.Out, "\x1b[H\x1b[2J")
		}
		return table(c.Out, "CONTAINER ID\tNAME\tCPU %\tMEM USAGE / LIMIT\tMEM %\tNET I/O\tBLOCK I/O\tPIDS", statsRows(s.Stats))
	})
}

func statsRows(list []*wherryv1.ContainerStats) [][]string {
	slices.SortFunc(list, func(a, b *wherryv1.ContainerStats) int { return cmp.Compare(a.Name, b.Name) })
	rows := make([][]string, 0, len(list))
	for _, s := range list {
		limit, percent := "-", "-"
		if s.MemoryLimitBytes > 0 {
			limit = binarySize(s.MemoryLimitBytes)
			percent = fmt.Sprintf("%.2f%%", 100*float64(s.MemoryBytes)/float64(s.MemoryLimitBytes))
		}
		rows = append(rows, []string{shortID(s.Id), s.Name, fmt.Sprintf("%.2f%%", s.CpuPercent),
			binarySize(s.MemoryBytes) + " / " + limit, percent,
			size(s.NetworkRxBytes) + " / " + size(s.NetworkTxBytes), size(s.BlockReadBytes) + " / " + size(s.BlockWriteBytes),
			strconv.FormatUint(s.Pids, 10)})
	}
	return rows
}

// PruneContainers removes the containers that have ended or never ran.
func (c *CLI) PruneContainers(ctx context.Context) error {
	list, err := c.containers(ctx, ListOptions{All: true})
	if err != nil {
		return err
	}
	var names []string
	for _, x := range list {
		switch x.State.GetPhase() {
		case wherryv1.ContainerPhase_CONTAINER_PHASE_CREATED, wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED:
			names = append(names, x.Name)
		}
	}
	// Without force: one that was started meanwhile is refused.
	return c.Remove(ctx, names, false, false)
}
