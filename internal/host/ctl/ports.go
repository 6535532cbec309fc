// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"wherry.example/wherry/api/wherryv1"
)

// reserve takes the ports that were asked for by number, before the container
// is started: one that cannot be had is docker's failure, not a container that
// runs and is not reached.
func (c *CLI) reserve(ctx context.Context, ports []*wherryv1.PortMapping) error {
	if c.Publish == nil {
		return nil
	}
	chosen := slices.DeleteFunc(slices.Clone(ports), func(p *wherryv1.PortMapping) bool { return p.HostPort == 0 })
	if len(chosen) == 0 {
		return nil
	}
	return c.Publish(ctx, c.machine, chosen)
}

func (c *CLI) inspectContainer(ctx context.Context, ref string) (*wherryv1.InspectContainerResponse, error) {
	api, err := c.API(ctx)
	if err != nil {
		return nil, err
	}
	return unary(ctx, api.Containers.InspectContainer, &wherryv1.InspectContainerRequest{Container: ref})
}

// reserveFor takes the ports of a container that exists.
func (c *CLI) reserveFor(ctx context.Context, ref string) error {
	if c.Publish == nil {
		return nil
	}
	res, err := c.inspectContainer(ctx, ref)
	if err != nil {
		return err
	}
	return c.reserve(ctx, res.Spec.GetPorts())
}

// publish leads to the ports that the machine chose too, and says where all of
// them are reached.
func (c *CLI) publish(ctx context.Context, id string, asked []*wherryv1.PortMapping) {
	if len(asked) == 0 || c.Publish == nil {
		return
	}
	res, err := c.inspectContainer(ctx, id)
	if err != nil {
		return // it may have ended already
	}
	if err := c.Publish(ctx, c.machine, res.Container.Ports); err != nil {
		c.notef("warning: the ports are published on the machine but cannot be reached from here: %v", err)
		return
	}
	for _, p := range res.Container.Ports {
		c.notef("port %d/%s is reached at %s", p.ContainerPort, cmp.Or(p.Protocol, "tcp"), c.place(p))
	}
}

// portsOf are the ports that lead to a container: those it asked for and those
// that the machine chose. What can't be asked has none.
func (c *CLI) portsOf(ctx context.Context, ref string) []*wherryv1.PortMapping {
	if c.Unpublish == nil {
		return nil
	}
	res, err := c.inspectContainer(ctx, ref)
	if err != nil {
		return nil
	}
	return append(slices.Clone(res.Spec.GetPorts()), res.Container.GetPorts()...)
}

// unpublish frees this computer's ports of a container that is gone, unless
// another one has them now.
func (c *CLI) unpublish(ctx context.Context, ports []*wherryv1.PortMapping) {
	if c.Unpublish == nil || len(ports) == 0 {
		return
	}
	api, err := c.API(ctx)
	if err != nil {
		return
	}
	res, err := unary(ctx, api.Containers.ListContainers, &wherryv1.ListContainersRequest{})
	if err != nil {
		return // whose they are now is not known
	}
	type key struct {
		protocol string
		port     uint32
	}
	used := map[key]bool{}
	for _, x := range res.Containers {
		for _, p := range singlePorts(x.Ports) {
			used[key{p.Protocol, p.HostPort}] = true
		}
	}
	ports = slices.DeleteFunc(singlePorts(ports), func(p *wherryv1.PortMapping) bool { return p.HostPort == 0 || used[key{p.Protocol, p.HostPort}] })
	if len(ports) == 0 {
		return
	}
	if err := c.Unpublish(ctx, c.machine, ports); err != nil {
		c.notef("warning: ports of this computer that led to it stay taken: %v", err)
	}
}

func (c *CLI) place(p *wherryv1.PortMapping) string {
	if c.Place != nil {
		return c.Place(c.machine, p)
	}
	return net.JoinHostPort(p.HostAddress, strconv.Itoa(int(p.HostPort)))
}

// Port prints where a container's published ports are reached: all of them, or
// those of one port of the container.
func (c *CLI) Port(ctx context.Context, ref, wanted string) error {
	port, protocol, err := parsePort(wanted)
	if err != nil {
		return err
	}
	res, err := c.inspectContainer(ctx, ref)
	if err != nil {
		return err
	}
	list := singlePorts(res.Container.Ports)
	if wanted != "" {
		list = slices.DeleteFunc(list, func(p *wherryv1.PortMapping) bool { return p.ContainerPort != port || p.Protocol != protocol })
		if len(list) == 0 {
			return fmt.Errorf("port %d/%s of container %s is not published", port, protocol, ref)
		}
	}
	if c.JSON {
		return printList(c, list)
	}
	for _, p := range list {
		if wanted == "" {
			fmt.Fprintf(c.Out, "%d/%s -> ", p.ContainerPort, p.Protocol)
		}
		fmt.Fprintln(c.Out, c.place(p))
	}
	return nil
}

// parsePort reads "80" or "53/udp".
func parsePort(text string) (port uint32, protocol string, err error) {
	if text == "" {
		return 0, "", nil
	}
	number, protocol, found := strings.Cut(text, "/")
	if !found {
		protocol = "tcp"
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" {
		return 0, "", errors.New("a port is a number from 1 to 65535, as in 80 or 53/udp")
	}
	return uint32(n), protocol, nil
}

// singlePorts takes ranges apart.
func singlePorts(ports []*wherryv1.PortMapping) []*wherryv1.PortMapping {
	var list []*wherryv1.PortMapping
	for _, p := range ports {
		for i := range max(p.Count, 1) {
			list = append(list, &wherryv1.PortMapping{HostAddress: p.HostAddress, HostPort: p.HostPort + i, ContainerPort: p.ContainerPort + i, Count: 1, Protocol: cmp.Or(p.Protocol, "tcp")})
		}
	}
	return list
}
