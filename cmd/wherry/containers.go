// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/spf13/cobra"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/internal/host/ctl/spec"
	"wherry.example/wherry/internal/host/ctl/terminal"
)

// exitUsage is what docker run and create end with when they were called wrongly.
const exitUsage = 125

func containerCommands(a *app) []*cobra.Command {
	return []*cobra.Command{
		newRunCommand(a), newCreateCommand(a), newStartCommand(a), newStopCommand(a), newRestartCommand(a), newKillCommand(a),
		newPauseCommand(a), newUnpauseCommand(a), newTopCommand(a),
		newRemoveCommand(a), newPSCommand(a), newLogsCommand(a), newExecCommand(a), newAttachCommand(a), newWaitCommand(a),
		newInspectCommand(a), newStatsCommand(a), newCopyCommand(a), newEventsCommand(a), newPortCommand(a), newContainerCommand(a),
	}
}

// newContainerCommand groups the verbs as docker does too.
func newContainerCommand(a *app) *cobra.Command {
	root := &cobra.Command{Use: "container", Short: "The same verbs, as docker groups them, and prune"}
	list := newPSCommand(a)
	list.Use, list.Aliases = "ls [flags]", []string{"list", "ps"}
	inspect := inspectCommand(a, "container", "inspect [flags] CONTAINER...", "Print all there is to know about containers", "container")
	prune := &cobra.Command{Use: "prune", Short: "Remove containers that have ended or never ran", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).PruneContainers(cmd.Context()) }}
	prune.Flags().BoolP("force", "f", false, "accepted for docker's sake: nothing is asked")
	root.AddCommand(newRunCommand(a), newCreateCommand(a), newStartCommand(a), newStopCommand(a), newRestartCommand(a), newKillCommand(a), newPauseCommand(a), newUnpauseCommand(a), newRemoveCommand(a), list,
		newLogsCommand(a), newExecCommand(a), newAttachCommand(a), newWaitCommand(a), newTopCommand(a), inspect, newStatsCommand(a), newCopyCommand(a), newPortCommand(a), prune)
	return root
}

func newPortCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "port CONTAINER [PORT[/PROTOCOL]]", Short: "Print where a container's published ports are reached", Example: "  wherry port web\n  wherry port web 80",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completes("running", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Port(cmd.Context(), args[0], strings.Join(args[1:], ""))
		},
	}
}

func imageFlags(cmd *cobra.Command, a *app, f *spec.Flags, o *ctl.RunOptions) {
	flags := cmd.Flags()
	f.Register(flags)
	flags.StringVar(&o.Pull, "pull", "missing", "pull the image: missing|always|never")
	flags.StringVar(&o.Platform, "platform", "", "platform of the image: linux/arm64")
	flags.StringVar(&o.IDFile, "cidfile", "", "write the container's id to a new file")
	complete(cmd, "pull", func(string) []string { return []string{"missing", "always", "never"} })
	complete(cmd, "restart", func(string) []string { return []string{"no", "on-failure", "always", "unless-stopped"} })
	complete(cmd, "network", func(prefix string) []string {
		return append(a.names(cmd, "network", prefix), "host", "none")
	})
	cmd.ValidArgsFunction = a.completes("image", true)
}

const runExample = `  wherry run --rm alpine echo hello
  wherry run -it --rm debian bash
  wherry run -d --name web -p 8080:80 -v data:/usr/share/nginx/html nginx
  wherry run -d -p 8080:8080 ./examples/hello     a folder with a Go program
  wherry run --rm ./image.tar                     an image archive
  wherry -m other run -d --memory 512m --restart always redis`

func newRunCommand(a *app) *cobra.Command {
	var f spec.Flags
	var o ctl.RunOptions
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE|./FOLDER|./ARCHIVE [COMMAND] [ARG...]",
		Short: "Create and start a container",
		Long: `Create and start a container of an image, of a folder with a Go program, or of
an image archive. An image that the machine does not have is pulled, with your
credentials (wherry login).`,
		Example: runExample,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.Spec(args[0], args[1:])
			if err != nil {
				return &ctl.ExitError{Code: exitUsage, Err: err}
			}
			return a.cli(cmd).Run(cmd.Context(), s, o)
		},
	}
	imageFlags(cmd, a, &f, &o)
	cmd.Flags().BoolVarP(&o.Detach, "detach", "d", false, "leave it running and print its id")
	cmd.Flags().BoolVar(&o.SigProxy, "sig-proxy", true, "pass signals on to the container")
	cmd.Flags().StringVar(&o.DetachKeys, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the container running")
	strict(cmd, cobra.MinimumNArgs(1))
	return cmd
}

func newCreateCommand(a *app) *cobra.Command {
	var f spec.Flags
	var o ctl.RunOptions
	cmd := &cobra.Command{
		Use:     "create [flags] IMAGE|./FOLDER|./ARCHIVE [COMMAND] [ARG...]",
		Short:   "Create a container without starting it",
		Example: `  wherry create --name web -p 8080:80 nginx && wherry start web`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.Spec(args[0], args[1:])
			if err != nil {
				return &ctl.ExitError{Code: exitUsage, Err: err}
			}
			return a.cli(cmd).Create(cmd.Context(), s, o)
		},
	}
	imageFlags(cmd, a, &f, &o)
	strict(cmd, cobra.MinimumNArgs(1))
	return cmd
}

func newStartCommand(a *app) *cobra.Command {
	var attach, interactive bool
	var keys string
	cmd := &cobra.Command{
		Use:               "start [flags] CONTAINER...",
		Short:             "Start containers",
		Example:           "  wherry start web db\n  wherry start -a job",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completes("container", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Start(cmd.Context(), args, attach, interactive, keys)
		},
	}
	cmd.Flags().BoolVarP(&attach, "attach", "a", false, "stay with it: show its output, end with its exit code")
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass on the input too")
	cmd.Flags().StringVar(&keys, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the container running")
	return cmd
}

// newTimedCommand is stop or restart.
func newTimedCommand(a *app, use, short, example string, run func(cmd *cobra.Command, args []string, signal string, timeout int, set bool) error) *cobra.Command {
	var timeout int
	var signal string
	cmd := &cobra.Command{
		Use: use + " [flags] CONTAINER...", Short: short, Example: example,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("running", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd, args, signal, timeout, cmd.Flags().Changed("time") || cmd.Flags().Changed("timeout"))
		},
	}
	cmd.Flags().IntVarP(&timeout, "timeout", "t", 10, "seconds until they are killed")
	cmd.Flags().IntVar(&timeout, "time", 10, "the same")
	if err := cmd.Flags().MarkHidden("time"); err != nil {
		panic(err) // the flag was made above
	}
	if use == "stop" {
		cmd.Flags().StringVarP(&signal, "signal", "s", "", "signal to send (default: the container's)")
	}
	return cmd
}

func newStopCommand(a *app) *cobra.Command {
	return newTimedCommand(a, "stop", "Stop containers", "  wherry stop web\n  wherry stop -t 60 db",
		func(cmd *cobra.Command, args []string, signal string, timeout int, set bool) error {
			return a.cli(cmd).Stop(cmd.Context(), args, signal, timeout, set)
		})
}

func newRestartCommand(a *app) *cobra.Command {
	return newTimedCommand(a, "restart", "Stop containers and start them again", "  wherry restart web",
		func(cmd *cobra.Command, args []string, _ string, timeout int, set bool) error {
			return a.cli(cmd).Restart(cmd.Context(), args, timeout, set)
		})
}

func newKillCommand(a *app) *cobra.Command {
	var signal string
	cmd := &cobra.Command{
		Use: "kill [flags] CONTAINER...", Short: "Send a signal to containers", Example: "  wherry kill web\n  wherry kill -s HUP web",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("running", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Kill(cmd.Context(), args, signal)
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "signal to send (default KILL)")
	return cmd
}

func newRemoveCommand(a *app) *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use: "rm [flags] CONTAINER...", Aliases: []string{"remove"}, Short: "Remove containers", Example: "  wherry rm web\n  wherry rm -f $(wherry ps -aq)",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("container", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Remove(cmd.Context(), args, force, volumes)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also those that run")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "their anonymous volumes too")
	return cmd
}

func newPSCommand(a *app) *cobra.Command {
	var o ctl.ListOptions
	cmd := &cobra.Command{
		Use: "ps [flags]", Aliases: []string{"ls", "list"}, Short: "List containers",
		Example: "  wherry ps -a\n  wherry ps -q --filter label=app=shop\n  wherry ps --format '{{.Names}}: {{.Status}}'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).PS(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.All, "all", "a", false, "those that do not run too")
	flags.BoolVarP(&o.Quiet, "quiet", "q", false, "print ids only")
	flags.BoolVar(&o.NoTrunc, "no-trunc", false, "do not shorten anything")
	flags.BoolVar(&o.System, "system", false, "the machine's own containers too (role admin)")
	flags.IntVarP(&o.Last, "last", "n", 0, "the last N created, in any state")
	flags.StringArrayVarP(&o.Filters, "filter", "f", nil, "label=name[=value], name=, id=, status=, health=, exited=, ancestor=")
	flags.StringVar(&o.Format, "format", "", "table, json, or a Go template")
	return cmd
}

func newLogsCommand(a *app) *cobra.Command {
	var o ctl.LogOptions
	cmd := &cobra.Command{
		Use: "logs [flags] CONTAINER", Short: "Print what a container wrote", Example: "  wherry logs -f --tail 100 web\n  wherry logs --since 10m web",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completes("container", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Logs(cmd.Context(), args[0], o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Follow, "follow", "f", false, "go on with what it writes from now on")
	flags.BoolVarP(&o.Timestamps, "timestamps", "t", false, "put the time in front of each line")
	flags.StringVar(&o.Since, "since", "", "from a time on: 10m, 2026-01-02T15:04:05")
	flags.StringVar(&o.Until, "until", "", "up to a time")
	flags.StringVarP(&o.Tail, "tail", "n", "all", "the last lines only")
	return cmd
}

func newExecCommand(a *app) *cobra.Command {
	var start wherryv1.ExecStart
	var env, envFiles []string
	var keys string
	cmd := &cobra.Command{
		Use: "exec [flags] CONTAINER COMMAND [ARG...]", Short: "Run a command in a running container",
		Example: "  wherry exec -it web sh\n  wherry exec -u postgres db psql -c 'select 1'",
		Args:    cobra.MinimumNArgs(2), ValidArgsFunction: a.completes("running", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if start.Env, err = spec.Env(envFiles, env); err != nil {
				return err
			}
			start.Container, start.Command = args[0], args[1:]
			return a.cli(cmd).Exec(cmd.Context(), &start, keys)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&start.Stdin, "interactive", "i", false, "pass on the input")
	flags.BoolVarP(&start.Tty, "tty", "t", false, "give it a terminal")
	flags.BoolVarP(&start.Detach, "detach", "d", false, "leave it running")
	flags.StringArrayVarP(&env, "env", "e", nil, "set an environment variable")
	flags.StringArrayVar(&envFiles, "env-file", nil, "read environment variables from a file")
	flags.StringVarP(&start.User, "user", "u", "", "user inside: name|uid[:group|gid]")
	flags.StringVarP(&start.Workdir, "workdir", "w", "", "working directory inside")
	flags.BoolVar(&start.Privileged, "privileged", false, "with all capabilities")
	flags.StringVar(&keys, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the command running")
	return cmd
}

func newAttachCommand(a *app) *cobra.Command {
	var noStdin, sigProxy bool
	var keys string
	cmd := &cobra.Command{
		Use: "attach [flags] CONTAINER", Short: "Join a running container's input and output",
		Long: "Join a running container's input and output. ctrl-p ctrl-q leaves it running when it has a terminal.",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completes("running", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Attach(cmd.Context(), args[0], noStdin, sigProxy, keys)
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "do not pass on the input")
	cmd.Flags().BoolVar(&sigProxy, "sig-proxy", true, "pass signals on to the container")
	cmd.Flags().StringVar(&keys, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the container running")
	return cmd
}

func newWaitCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "wait CONTAINER...", Short: "Wait until containers have ended, and print their exit codes",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("running", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Wait(cmd.Context(), args)
		},
	}
}

func newPauseCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "pause CONTAINER...", Short: "Freeze the processes of containers",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("running", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Pause(cmd.Context(), args)
		},
	}
}

func newUnpauseCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "unpause CONTAINER...", Short: "Let frozen containers go on",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes("running", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Unpause(cmd.Context(), args)
		},
	}
}

func newTopCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "top CONTAINER", Short: "List the processes of a running container",
		Args: cobra.ExactArgs(1), ValidArgsFunction: a.completes("running", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Top(cmd.Context(), args[0])
		},
	}
}

func newInspectCommand(a *app) *cobra.Command {
	cmd := inspectCommand(a, "container", "inspect [flags] NAME...", "Print all there is to know about containers, images, volumes, networks",
		"container", "image", "volume", "network")
	cmd.Example = "  wherry inspect web\n  wherry inspect --format '{{.container.state.exitCode}}' web"
	return cmd
}

// inspectCommand inspects objects of kinds; names of the kind are completed.
func inspectCommand(a *app, kind, use, short string, kinds ...string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completes(kind, false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Inspect(cmd.Context(), kinds, args, format)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json, or a Go template over the JSON's names")
	return cmd
}

func newStatsCommand(a *app) *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use: "stats [flags] [CONTAINER...]", Short: "Show what containers use", ValidArgsFunction: a.completes("running", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Stats(cmd.Context(), args, once)
		},
	}
	cmd.Flags().BoolVar(&once, "no-stream", false, "print once and end")
	return cmd
}

func newCopyCommand(a *app) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use: "cp [flags] CONTAINER:PATH DESTINATION | SOURCE CONTAINER:PATH", Short: "Copy files from or to a container",
		Long:    `Copy files from or to a container, whether it runs or not. "-" is a tar stream.`,
		Example: "  wherry cp index.html web:/usr/share/nginx/html/\n  wherry cp web:/var/log/nginx ./logs\n  wherry cp db:/data - | tar tv",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).Copy(cmd.Context(), args[0], args[1], quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	cmd.Flags().BoolP("archive", "a", false, "accepted for docker's sake: modes and times are always kept")
	return cmd
}

func newEventsCommand(a *app) *cobra.Command {
	var o ctl.EventOptions
	cmd := &cobra.Command{
		Use: "events [flags]", Short: "Show what happens on the machine", Example: "  wherry events --since 1h --filter type=container --filter event=die",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).Events(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Since, "since", "", "from a time on: 10m, 2026-01-02T15:04:05")
	cmd.Flags().StringVar(&o.Until, "until", "", "up to a time, then end")
	cmd.Flags().StringArrayVarP(&o.Filters, "filter", "f", nil, "type=container|image|volume|update, event=, container=")
	return cmd
}
