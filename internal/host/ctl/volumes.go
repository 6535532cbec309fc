// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/ctl/spec"
)

// Volumes lists volumes.
func (c *CLI) Volumes(ctx context.Context, quiet bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Volumes.ListVolumes, &wherryv1.ListVolumesRequest{})
	if err != nil {
		return err
	}
	slices.SortFunc(res.Volumes, func(a, b *wherryv1.Volume) int { return strings.Compare(a.Name, b.Name) })
	switch {
	case quiet:
		for _, v := range res.Volumes {
			fmt.Fprintln(c.Out, v.Name)
		}
		return nil
	case c.JSON:
		return printList(c, res.Volumes)
	}
	var rows [][]string
	for _, v := range res.Volumes {
		limit := "-"
		if v.LimitBytes > 0 {
			limit = binarySize(v.LimitBytes)
		}
		rows = append(rows, []string{v.Name, binarySize(v.UsedBytes), limit, c.age(v.CreatedAt), strings.Join(v.Containers, ", ")})
	}
	return table(c.Out, "VOLUME\tUSED\tLIMIT\tCREATED\tCONTAINERS", rows)
}

// CreateVolume creates a volume and prints its name.
func (c *CLI) CreateVolume(ctx context.Context, name, limit string, labels []string) error {
	req := &wherryv1.CreateVolumeRequest{Name: name}
	var err error
	if req.Labels, err = spec.Labels(labels); err != nil {
		return err
	}
	if limit != "" {
		if req.LimitBytes, err = spec.ParseBytes("--size", limit); err != nil {
			return err
		}
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Volumes.CreateVolume, req)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res.Volume)
	}
	fmt.Fprintln(c.Out, res.Volume.GetName())
	return nil
}

// RemoveVolumes removes volumes.
func (c *CLI) RemoveVolumes(ctx context.Context, names []string, force bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, names, func(ctx context.Context, name string) (string, error) {
		_, err := unary(ctx, api.Volumes.RemoveVolume, &wherryv1.RemoveVolumeRequest{Name: name, Force: force})
		return name, err
	})
}

// PruneVolumes removes volumes that no container mounts: anonymous ones, or all.
func (c *CLI) PruneVolumes(ctx context.Context, all bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Volumes.PruneVolumes, &wherryv1.PruneVolumesRequest{All: all})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	for _, v := range res.Removed {
		fmt.Fprintln(c.Out, v)
	}
	c.notef("freed %s", size(res.FreedBytes))
	return nil
}

// Networks lists networks.
func (c *CLI) Networks(ctx context.Context, quiet bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Networks.ListNetworks, &wherryv1.ListNetworksRequest{})
	if err != nil {
		return err
	}
	slices.SortFunc(res.Networks, func(a, b *wherryv1.Network) int { return strings.Compare(a.Name, b.Name) })
	switch {
	case quiet:
		for _, n := range res.Networks {
			fmt.Fprintln(c.Out, n.Name)
		}
		return nil
	case c.JSON:
		return printList(c, res.Networks)
	}
	var rows [][]string
	for _, n := range res.Networks {
		var members []string
		for _, m := range n.Members {
			members = append(members, m.Name)
		}
		rows = append(rows, []string{n.Name, n.Subnet4, n.Subnet6, yes(n.Internal), strings.Join(members, ", ")})
	}
	return table(c.Out, "NETWORK\tIPV4\tIPV6\tINTERNAL\tCONTAINERS", rows)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// CreateNetwork creates a network and prints its name.
func (c *CLI) CreateNetwork(ctx context.Context, req *wherryv1.CreateNetworkRequest, subnets, labels []string) error {
	var err error
	if req.Labels, err = spec.Labels(labels); err != nil {
		return err
	}
	for _, s := range subnets {
		to := &req.Subnet4
		if strings.Contains(s, ":") {
			to = &req.Subnet6
		}
		if *to != "" {
			return fmt.Errorf("--subnet %s: a network has one subnet of each kind", s)
		}
		*to = s
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Networks.CreateNetwork, req)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res.Network)
	}
	fmt.Fprintln(c.Out, res.Network.GetName())
	return nil
}

// RemoveNetworks removes networks.
func (c *CLI) RemoveNetworks(ctx context.Context, names []string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, names, func(ctx context.Context, name string) (string, error) {
		_, err := unary(ctx, api.Networks.RemoveNetwork, &wherryv1.RemoveNetworkRequest{Name: name})
		return name, err
	})
}

// PruneNetworks removes networks that no container has joined.
func (c *CLI) PruneNetworks(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Networks.PruneNetworks, &wherryv1.PruneNetworksRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	for _, n := range res.Removed {
		fmt.Fprintln(c.Out, n)
	}
	return nil
}
