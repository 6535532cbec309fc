// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// completionTime bounds how long a shell waits for names.
const completionTime = 3 * time.Second

// Names are the names of objects that begin with a prefix, for completion. A
// machine that does not answer has none.
func (c *CLI) Names(ctx context.Context, kind, prefix string) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	api, err := c.API(ctx)
	if err != nil {
		return nil
	}
	var names []string
	switch kind {
	case "container", "running":
		res, err := unary(ctx, api.Containers.ListContainers, &wherryv1.ListContainersRequest{All: kind == "container"})
		if err != nil {
			return nil
		}
		for _, x := range res.Containers {
			names = append(names, x.Name)
		}
	case "image":
		res, err := unary(ctx, api.Images.ListImages, &wherryv1.ListImagesRequest{})
		if err != nil {
			return nil
		}
		for _, x := range res.Images {
			for _, n := range x.Names {
				repository, tag := splitTag(n)
				names = append(names, repository+":"+tag)
			}
		}
	case "volume":
		res, err := unary(ctx, api.Volumes.ListVolumes, &wherryv1.ListVolumesRequest{})
		if err != nil {
			return nil
		}
		for _, x := range res.Volumes {
			names = append(names, x.Name)
		}
	case "network":
		res, err := unary(ctx, api.Networks.ListNetworks, &wherryv1.ListNetworksRequest{})
		if err != nil {
			return nil
		}
		for _, x := range res.Networks {
			names = append(names, x.Name)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) || strings.Contains(n, "<none>") })
	slices.Sort(names)
	return names
}

// OfferedVersions are the releases that the machine could go to, as far as it
// knows without asking its repository.
func (c *CLI) OfferedVersions(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	_, u, err := c.update(ctx)
	if err != nil {
		return nil
	}
	var versions []string
	if u.Offer != nil {
		versions = append(versions, u.Offer.Version)
	}
	for _, s := range u.Slots {
		if !s.Running && !slices.Contains(versions, s.Version) {
			versions = append(versions, s.Version)
		}
	}
	return versions
}
