// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/docker/go-units"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/known"
)

// ListMachines prints the machines that are known.
func (c *CLI) ListMachines(store *known.Store) error {
	list, current, err := store.List()
	if err != nil {
		return err
	}
	if c.JSON {
		type row struct {
			known.Machine
			Current bool `json:"current"`
		}
		rows := []row{}
		for _, m := range list {
			rows = append(rows, row{m, m.Name == current})
		}
		return c.printJSON(rows)
	}
	var rows [][]string
	for _, m := range list {
		mark := ""
		if m.Name == current {
			mark = "*"
		}
		rows = append(rows, []string{mark, m.Name, m.Address, m.Fingerprint})
	}
	return table(c.Out, "\tMACHINE\tADDRESS\tKEY", rows)
}

// WhoAmI prints how the machine sees the user.
func (c *CLI) WhoAmI(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Machine.WhoAmI, &wherryv1.WhoAmIRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	fmt.Fprintf(c.Out, "%s  %s  role %s\n", res.Fingerprint, res.Comment, res.Role)
	return nil
}

// MachineLog prints the machine's own log, or its kernel's.
func (c *CLI) MachineLog(ctx context.Context, follow, kernel bool, tail uint32) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	req := &wherryv1.StreamLogRequest{Follow: follow, Kernel: kernel, Tail: tail}
	return serverStream(ctx, api.Machine.StreamLog, req, func(l *wherryv1.LogLine) error {
		if c.JSON {
			return c.printLine(l)
		}
		return write(c.Out, fmt.Appendf(nil, "%s %s\n", l.Time.AsTime().Local().Format("2006-01-02T15:04:05.000"), l.Text))
	})
}

const restartPoll = 500 * time.Millisecond

// Reboot restarts the machine and, with wait, returns when it answers again, and tells which containers do not run yet.
func (c *CLI) Reboot(ctx context.Context, wait bool, timeout time.Duration) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	before, err := unary(ctx, api.Machine.GetStatus, &wherryv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if _, err := unary(ctx, api.Machine.Reboot, &wherryv1.RebootRequest{}); err != nil {
		return err
	}
	if !wait {
		return nil
	}
	c.notef("machine %s is rebooting", c.machine.Name)
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	starting, err := c.awaitReboot(ctx, before)
	if err != nil {
		return fmt.Errorf("machine %s did not come back within %v: %w", c.machine.Name, timeout, err)
	}
	c.notef("machine %s is back after %.1f s%s", c.machine.Name, time.Since(began).Seconds(), stillStarting(starting))
	return nil
}

// stillStarting names containers as the tail of a sentence.
func stillStarting(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", and still starts " + strings.Join(names, ", ")
}

// starting names the containers that did not start again yet since the machine did.
func starting(ctx context.Context, api *client.Client) ([]string, error) {
	res, err := unary(ctx, api.Containers.ListContainers, &wherryv1.ListContainersRequest{All: true})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, x := range res.Containers {
		if x.State.GetPhase() == wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING {
			names = append(names, x.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// awaitReboot asks until the machine answers with a later boot, and returns which containers it still starts.
func (c *CLI) awaitReboot(ctx context.Context, before *wherryv1.GetStatusResponse) ([]string, error) {
	began := time.Now()
	last := errors.New("it did not go down")
	for {
		select {
		case <-ctx.Done():
			return nil, last
		case <-time.After(restartPoll):
		}
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		api, _, err := c.Connect(try)
		if err == nil {
			var now *wherryv1.GetStatusResponse
			if now, err = unary(try, api.Machine.GetStatus, &wherryv1.GetStatusRequest{}); err == nil {
				// Without a reboot the machine is up for as much longer as has passed here.
				if uptime(now)+time.Second < uptime(before)+time.Since(began) {
					names, _ := starting(try, api) // it is back, whatever can be said of them
					api.Close()
					cancel()
					return names, nil
				}
			}
			api.Close()
		}
		cancel()
		if err != nil {
			last = err
		}
	}
}

func uptime(s *wherryv1.GetStatusResponse) time.Duration {
	return s.Now.AsTime().Sub(s.BootedAt.AsTime())
}

// PowerOff switches the machine off.
func (c *CLI) PowerOff(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if _, err := unary(ctx, api.Machine.PowerOff, &wherryv1.PowerOffRequest{}); err != nil {
		return err
	}
	c.notef("machine %s is stopping its containers and then switches itself off", c.machine.Name)
	return nil
}

// Version prints the versions of this program and, where one answers, of the machine.
func (c *CLI) Version(ctx context.Context, own string) error {
	type versions struct {
		Client  string `json:"client"`
		Machine string `json:"machine,omitempty"`
		Name    string `json:"name,omitempty"`
		API     string `json:"api,omitempty"`
		Error   string `json:"error,omitempty"`
	}
	v := versions{Client: own}
	api, err := c.API(ctx)
	if err == nil {
		var res *wherryv1.GetVersionResponse
		if res, err = unary(ctx, api.Machine.GetVersion, &wherryv1.GetVersionRequest{}); err == nil {
			v.Machine, v.API, v.Name = res.Version, res.Api, c.machine.Name
		}
	}
	if err != nil {
		v.Error = err.Error()
	}
	if c.JSON {
		return c.printJSON(v)
	}
	fmt.Fprintf(c.Out, "wherry %s\n", v.Client)
	switch {
	case err == nil:
		fmt.Fprintf(c.Out, "machine %s: %s (API %s)\n", v.Name, v.Machine, v.API)
	case !errors.Is(err, known.ErrNone):
		fmt.Fprintf(c.Out, "machine: %v\n", err)
	}
	return nil
}

// Status prints one screen about the machine.
func (c *CLI) Status(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	s, err := unary(ctx, api.Machine.GetStatus, &wherryv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(s)
	}
	list, err := unary(ctx, api.Containers.ListContainers, &wherryv1.ListContainersRequest{All: true})
	if err != nil {
		if codeOf(err) == connect.CodePermissionDenied {
			return err
		}
		c.notef("the containers cannot be listed: %v", err)
	}
	// A machine of a release without updates has nothing to say about them.
	update, _ := unary(ctx, api.Updates.GetUpdate, &wherryv1.GetUpdateRequest{})
	fmt.Fprint(c.Out, c.statusScreen(s, list.GetContainers(), update))
	return nil
}

const maxStatusContainers = 12

func (c *CLI) statusScreen(s *wherryv1.GetStatusResponse, list []*wherryv1.Container, update *wherryv1.GetUpdateResponse) string {
	var rows [][]string
	row := func(name, format string, args ...any) {
		rows = append(rows, []string{name, fmt.Sprintf(format, args...)})
	}
	up := s.Now.AsTime().Sub(s.BootedAt.AsTime())
	row("Machine", "%s  %s", s.Name, s.Fingerprint)
	row("Release", "wherry %s, Linux %s, %s", s.Version, s.Kernel, s.Architecture)
	if s.Boot != nil {
		row("Boot", "%s", bootLine(s.Boot))
		if s.Boot.Trust != nil {
			row("", "%s", verifiedLine(s.Boot.Trust))
		}
	}
	if update != nil {
		row("Update", "%s", c.updateLine(update))
	}
	row("Up", "%s (load %.2f, %d CPUs)", units.HumanDuration(up), s.Load1, s.Cpus)
	row("Time", "%s, %s", s.Now.AsTime().Local().Format(time.DateTime), timeSource(s))
	row("Memory", "%s of %s used", binarySize(s.Memory.GetTotalBytes()-min(s.Memory.GetAvailableBytes(), s.Memory.GetTotalBytes())), binarySize(s.Memory.GetTotalBytes()))
	row("State", "%s", stateLine(s.State))
	for _, d := range s.Disks {
		holds := ""
		if d.HoldsState {
			holds = ", holds the state"
		}
		row("Disk", "%s %s: %s%s", d.Name, size(d.Bytes), orNone(d.Content), holds)
	}
	for _, l := range s.Links {
		row("Link", "%s %s %s (%s)", l.Name, map[bool]string{true: "up", false: "down"}[l.Up], strings.Join(l.Addresses, " "), orNone(l.Method))
	}
	if len(s.Nameservers) > 0 {
		row("Name servers", "%s", strings.Join(s.Nameservers, " "))
	}
	first := fmt.Sprintf("%d running", s.Containers.GetRunning())
	if n := s.Containers.GetStarting(); n > 0 {
		first += fmt.Sprintf(", %d starting", n)
	}
	row("Containers", "%s, %d stopped, %d unhealthy", first, s.Containers.GetStopped(), s.Containers.GetUnhealthy())
	for i, x := range list {
		if i == maxStatusContainers {
			row("", "and %d more: wherry ps -a", len(list)-i)
			break
		}
		row("", "%s  %s  %s", x.Name, x.Image, c.statusLine(x.State))
	}
	for _, sub := range s.Subsystems {
		row("Subsystem", "%s", strings.TrimSpace(fmt.Sprintf("%s %s %s", sub.Name, map[bool]string{true: "ready", false: "NOT READY"}[sub.Ready], sub.Message)))
	}
	row("Health", "%s", healthLine(s))
	var b strings.Builder
	_ = table(&b, "", rows) // a strings.Builder takes everything
	return strings.TrimLeft(b.String(), "\n")
}

// bootLine says which OS file runs, and whether it is there to stay.
func bootLine(b *wherryv1.Boot) string {
	slot := b.Slot
	switch {
	case slot == nil && b.Unsupported == "":
		return "the OS file that runs was not found"
	case slot == nil:
		return b.Unsupported
	case slot.Trial && slot.TriesLeft == 0:
		return slot.File + ", on trial, its last try"
	case slot.Trial:
		return fmt.Sprintf("%s, on trial, %d more tries", slot.File, slot.TriesLeft)
	}
	return slot.File
}

// verifiedLine says what the firmware checked, and with whose key.
func verifiedLine(t *wherryv1.UpdateTrust) string {
	signer := ""
	if t.GetSignedBy() != "" {
		signer = fmt.Sprintf("signed by %s (SHA-256 %s)", t.SignedBy, t.Fingerprint)
	}
	switch {
	case t.SecureBoot && signer == "":
		return "verified by Secure Boot"
	case t.SecureBoot:
		return "verified by Secure Boot, " + signer
	case signer == "" && t.SetupMode:
		return "not verified: the firmware has no owner's keys yet"
	case signer == "":
		return "not verified: Secure Boot is off"
	}
	return "not verified: Secure Boot is off; " + signer
}

func timeSource(s *wherryv1.GetStatusResponse) string {
	if s.TimeSynchronised {
		return "synchronised with " + s.TimeSource
	}
	return "not synchronised"
}

func stateLine(s *wherryv1.StateInfo) string {
	used := s.GetTotalBytes() - min(s.GetFreeBytes(), s.GetTotalBytes())
	space := fmt.Sprintf("%s of %s used", size(used), size(s.GetTotalBytes()))
	if !s.GetPersistent() {
		return "IN MEMORY, gone at power-off; " + space
	}
	return fmt.Sprintf("%s on %s, %s", s.Filesystem, s.Device, space)
}

// healthLine sums up what needs somebody's attention.
func healthLine(s *wherryv1.GetStatusResponse) string {
	var bad []string
	for _, sub := range s.Subsystems {
		if !sub.Ready {
			bad = append(bad, sub.Name+" is not ready")
		}
	}
	if n := s.Containers.GetUnhealthy(); n > 0 {
		bad = append(bad, fmt.Sprintf("%d unhealthy containers", n))
	}
	if len(bad) == 0 {
		return "good"
	}
	return strings.Join(bad, ", ")
}
