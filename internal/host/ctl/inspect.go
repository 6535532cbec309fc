// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/ctl/terminal"
)

func isTerminal(stream any) bool { return terminal.Is(stream) }

// inspectors ask for one kind of object each.
var inspectors = map[string]func(context.Context, *client.Client, string) (proto.Message, error){
	"container": func(ctx context.Context, api *client.Client, name string) (proto.Message, error) {
		return unary(ctx, api.Containers.InspectContainer, &wherryv1.InspectContainerRequest{Container: name})
	},
	"image": func(ctx context.Context, api *client.Client, name string) (proto.Message, error) {
		return unary(ctx, api.Images.InspectImage, &wherryv1.InspectImageRequest{Image: name})
	},
	"volume": func(ctx context.Context, api *client.Client, name string) (proto.Message, error) {
		res, err := unary(ctx, api.Volumes.InspectVolume, &wherryv1.InspectVolumeRequest{Name: name})
		return res.GetVolume(), err
	},
	"network": func(ctx context.Context, api *client.Client, name string) (proto.Message, error) {
		res, err := unary(ctx, api.Networks.InspectNetwork, &wherryv1.InspectNetworkRequest{Name: name})
		return res.GetNetwork(), err
	},
}

// Inspect prints all there is to know about objects of some kinds: the first
// kind that has the name is meant.
func (c *CLI) Inspect(ctx context.Context, kinds, names []string, format string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	var found []proto.Message
	var missing []error
	for _, name := range names {
		m, err := inspectOne(ctx, api, kinds, name)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		found = append(found, m)
	}
	if err := c.printInspected(found, format); err != nil {
		return err
	}
	return errors.Join(missing...)
}

func (c *CLI) printInspected(found []proto.Message, format string) error {
	if format == "" || format == "json" {
		return printList(c, found)
	}
	var values []map[string]any
	for _, m := range found {
		v, err := asMap(m)
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	return printTemplate(c, format, values)
}

func inspectOne(ctx context.Context, api *client.Client, kinds []string, name string) (proto.Message, error) {
	for _, kind := range kinds {
		m, err := inspectors[kind](ctx, api, name)
		if err == nil {
			return m, nil
		}
		if codeOf(err) != connect.CodeNotFound || len(kinds) == 1 {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no container, image, volume or network is called %q", name)
}
