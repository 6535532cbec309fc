// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/internal/host/login"
)

func objectCommands(a *app) []*cobra.Command {
	image := &cobra.Command{Use: "image", Short: "Images on the machine"}
	image.AddCommand(newImagesCommand(a, "ls"), newPullCommand(a), newLoadCommand(a), newRemoveImageCommand(a, "rm"), newTagCommand(a), newPruneImagesCommand(a),
		inspectCommand(a, "image", "inspect [flags] IMAGE...", "Print all there is to know about images", "image"))
	return []*cobra.Command{image, newImagesCommand(a, "images"), newPullCommand(a), newLoadCommand(a), newRemoveImageCommand(a, "rmi"), newTagCommand(a),
		newLoginCommand(a), newLogoutCommand(a), newVolumeCommand(a), newNetworkCommand(a)}
}

func newImagesCommand(a *app, use string) *cobra.Command {
	var o ctl.ImageListOptions
	cmd := &cobra.Command{
		Use: use + " [flags] [NAME]", Short: "List images", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completes("image", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Name = args[0]
			}
			return a.cli(cmd).Images(cmd.Context(), o)
		},
	}
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "print ids only")
	cmd.Flags().BoolVar(&o.NoTrunc, "no-trunc", false, "do not shorten ids")
	cmd.Flags().StringVar(&o.Format, "format", "", "table, json, or a Go template")
	return cmd
}

func newPullCommand(a *app) *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use: "pull [flags] IMAGE...", Short: "Fetch images from a registry", Example: "  wherry pull nginx\n  wherry pull ghcr.io/someone/app:1.2",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("image", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Pull(cmd.Context(), args, platform)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "platform of the image: linux/arm64")
	return cmd
}

func newLoadCommand(a *app) *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use: "load [flags]", Short: "Load images from an archive (OCI or docker save)", Example: "  wherry load -i image.tar\n  docker save app | wherry load",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).Load(cmd.Context(), input)
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "-", "archive to read; - is the input")
	return cmd
}

func newRemoveImageCommand(a *app, use string) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: use + " [flags] IMAGE...", Short: "Remove images", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("image", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).RemoveImages(cmd.Context(), args, force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also when containers use them")
	return cmd
}

func newTagCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME", Short: "Give an image a further name", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completes("image", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Tag(cmd.Context(), args[0], args[1])
		},
	}
}

func newPruneImagesCommand(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove images that no container uses", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).PruneImages(cmd.Context(), all)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those with a name too")
	cmd.Flags().BoolP("force", "f", false, "accepted for docker's sake: nothing is asked")
	return cmd
}

func newLoginCommand(a *app) *cobra.Command {
	var user, password string
	var stdin bool
	cmd := &cobra.Command{
		Use: "login [flags] [REGISTRY]", Short: "Keep credentials for a registry",
		Long: `Keep credentials for a registry where docker keeps them (~/.docker/config.json).
They are handed to the machine with each pull and not kept there.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry := ""
			if len(args) > 0 {
				registry = args[0]
			}
			return a.cli(cmd).Login(cmd.Context(), registry, user, password, stdin, login.Terminal())
		},
	}
	cmd.Flags().StringVarP(&user, "username", "u", "", "name of the user")
	cmd.Flags().StringVarP(&password, "password", "p", "", "password (better: let it be asked for)")
	cmd.Flags().BoolVar(&stdin, "password-stdin", false, "read the password from the input")
	return cmd
}

func newLogoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "logout [REGISTRY]", Short: "Forget the credentials for a registry", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			registry := ""
			if len(args) > 0 {
				registry = args[0]
			}
			return a.cli(cmd).Logout(registry)
		},
	}
}

func newVolumeCommand(a *app) *cobra.Command {
	var quiet, force, all bool
	var limit string
	var labels []string
	root := &cobra.Command{Use: "volume", Short: "Directories that outlive containers"}
	list := &cobra.Command{Use: "ls [flags]", Aliases: []string{"list"}, Short: "List volumes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).Volumes(cmd.Context(), quiet) }}
	list.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	create := &cobra.Command{Use: "create [flags] [NAME]", Short: "Create a volume", Example: "  wherry volume create --size 10g data", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return a.cli(cmd).CreateVolume(cmd.Context(), name, limit, labels)
		}}
	create.Flags().StringVar(&limit, "size", "", "most that it may hold: 10g (default: no limit)")
	create.Flags().StringArrayVarP(&labels, "label", "l", nil, "set a label: name=value")
	remove := &cobra.Command{Use: "rm [flags] VOLUME...", Aliases: []string{"remove"}, Short: "Remove volumes", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("volume", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).RemoveVolumes(cmd.Context(), args, force)
		}}
	remove.Flags().BoolVarP(&force, "force", "f", false, "no error for those that do not exist")
	prune := &cobra.Command{Use: "prune [flags]", Short: "Remove anonymous volumes that no container mounts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).PruneVolumes(cmd.Context(), all) }}
	prune.Flags().BoolVarP(&all, "all", "a", false, "named ones too")
	root.AddCommand(list, create, remove, prune, inspectCommand(a, "volume", "inspect [flags] VOLUME...", "Print all there is to know about volumes", "volume"))
	return root
}

func newNetworkCommand(a *app) *cobra.Command {
	var quiet bool
	var req wherryv1.CreateNetworkRequest
	var subnets, labels []string
	root := &cobra.Command{Use: "network", Short: "Networks that containers join"}
	list := &cobra.Command{Use: "ls [flags]", Aliases: []string{"list"}, Short: "List networks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).Networks(cmd.Context(), quiet) }}
	list.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	create := &cobra.Command{Use: "create [flags] NAME", Short: "Create a network", Example: "  wherry network create back\n  wherry network create --internal --subnet 10.9.0.0/24 db", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			return a.cli(cmd).CreateNetwork(cmd.Context(), &req, subnets, labels)
		}}
	create.Flags().StringArrayVar(&subnets, "subnet", nil, "addresses: 10.9.0.0/24, fd00:9::/64 (default: the next free ones)")
	create.Flags().StringVar(&req.Gateway4, "gateway", "", "the machine's own IPv4 address on it")
	create.Flags().BoolVar(&req.Internal, "internal", false, "no way out")
	create.Flags().StringArrayVarP(&labels, "label", "l", nil, "set a label: name=value")
	remove := &cobra.Command{Use: "rm NETWORK...", Aliases: []string{"remove"}, Short: "Remove networks", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("network", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).RemoveNetworks(cmd.Context(), args)
		}}
	prune := &cobra.Command{Use: "prune", Short: "Remove networks that no container has joined", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).PruneNetworks(cmd.Context()) }}
	root.AddCommand(list, create, remove, prune, inspectCommand(a, "network", "inspect [flags] NETWORK...", "Print all there is to know about networks", "network"))
	return root
}
