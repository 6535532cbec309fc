// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	publishing "wherry.example/wherry/internal/host/publish"
	"wherry.example/wherry/release"
)

// releaseApp is the flags of the release commands.
type releaseApp struct {
	*app
	dir, keys, passphraseFile string
	rootKeys                  []string
}

const releaseLong = `Publish releases: a repository of signed, plain files that any web server,
bucket, mirror or USB stick can hold, and from which machines update themselves.

  wherry release key new --root-key /media/safe/root.pem
  wherry release init repository --root-key /media/safe/root.pem
  cd repository
  wherry release publish ../build/core-amd64
  wherry release promote 12.0.0 --to beta
  wherry release promote 12.0.0 --to stable --percent 10
  wherry release rollout 12.0.0 --channel stable --percent 100
  wherry release refresh                       at least weekly

The root key is needed only to make the repository and to change keys: keep it
apart from this computer.`

func newReleaseCommand(a *app) *cobra.Command {
	r := &releaseApp{app: a}
	cmd := &cobra.Command{Use: "release", Short: "Publish releases, and sign them", Long: releaseLong}
	f := cmd.PersistentFlags()
	f.StringVar(&r.dir, "repository", cmp.Or(os.Getenv("WHERRY_REPOSITORY"), "."), "the repository's folder ($WHERRY_REPOSITORY)")
	f.StringVar(&r.keys, "keys", cmp.Or(os.Getenv("WHERRY_RELEASE_KEYS"), defaultReleaseKeys()), "folder of the keys of targets, snapshot and timestamp ($WHERRY_RELEASE_KEYS)")
	f.StringArrayVar(&r.rootKeys, "root-key", nil, "file of a root key; again for more")
	f.StringVar(&r.passphraseFile, "passphrase-file", "", "file with the passphrase of the keys (default: $WHERRY_PASSPHRASE, or ask)")
	cmd.AddCommand(r.keyCommand(), r.initCommand(), r.publishCommand(), r.promoteCommand(), r.rolloutCommand(), r.withdrawCommand(), r.removeCommand(),
		r.refreshCommand(), r.listCommand(), r.versionCommand(), r.serveCommand(), r.bundleCommand(), r.deltaCommand(), r.verifyCommand(), r.chooseCommand(), r.verifyAttestationCommand())
	return cmd
}

func defaultReleaseKeys() string {
	dir, err := os.UserConfigDir()
	if x := os.Getenv("XDG_CONFIG_HOME"); x != "" {
		dir, err = x, nil
	}
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "wherry", "release-keys")
}

func (r *releaseApp) keyring(cmd *cobra.Command) publishing.Keys {
	asked := map[string][]byte{}
	return publishing.Keys{Dir: r.keys, RootFiles: r.rootKeys, Passphrase: func(file string) ([]byte, error) {
		if asked[file] == nil {
			secret, err := r.passphrase(cmd.ErrOrStderr(), file)
			if err != nil {
				return nil, err
			}
			asked[file] = secret
		}
		return asked[file], nil
	}}
}

func (r *releaseApp) passphrase(w io.Writer, file string) ([]byte, error) {
	if r.passphraseFile != "" {
		data, err := os.ReadFile(r.passphraseFile)
		return []byte(strings.TrimRight(string(data), "\r\n")), err
	}
	if p := os.Getenv("WHERRY_PASSPHRASE"); p != "" {
		return []byte(p), nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, errors.New("it needs a passphrase: give it with --passphrase-file or $WHERRY_PASSPHRASE")
	}
	fmt.Fprintf(w, "Passphrase of %s: ", file)
	secret, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(w)
	if err == nil && len(secret) == 0 {
		err = errors.New("the passphrase is empty")
	}
	return secret, err
}

// with opens the repository for a change.
func (r *releaseApp) with(cmd *cobra.Command, do func(context.Context, *publishing.Repository, publishing.Keys) error) error {
	repository, err := publishing.Open(r.dir, time.Now)
	if err != nil {
		return err
	}
	return errors.Join(do(cmd.Context(), repository, r.keyring(cmd)), repository.Close())
}

func (r *releaseApp) initCommand() *cobra.Command {
	var threshold int
	cmd := &cobra.Command{
		Use: "init DIR", Short: "Make a repository", Args: cobra.ExactArgs(1),
		Long: `Make a repository without releases, and its root role with the keys found. The
file metadata/1.root.json in it is what machines are given to trust: build
images with --release-root and its name, or put a copy into the checkout as
release-root.json, which every build takes.`,
		Example: "  wherry release init repository --root-key root.pem\n  wherry release init repository --root-key a.pem --root-key b.pem --root-key c.pem --root-threshold 2",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := publishing.Init(cmd.Context(), args[0], r.keyring(cmd), threshold, time.Now); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "The repository is in %[1]s. Machines trust it by %[2]s: build their images with\n  wherry build --release-root %[2]s …\n", args[0], filepath.Join(args[0], "metadata", "1.root.json"))
			return nil
		},
	}
	cmd.Flags().IntVar(&threshold, "root-threshold", 1, "how many root keys must sign a change of keys")
	return cmd
}

// rolloutFlags are a percentage and a start.
type rolloutFlags struct {
	percent int
	start   string
}

func (f *rolloutFlags) register(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.percent, "percent", 100, "how many of the channel's machines take it; 0 halts")
	cmd.Flags().StringVar(&f.start, "start", "", "from when on: a time such as 2026-12-01T08:00:00Z, or 2h from now (default: now)")
}

func (f rolloutFlags) rollout() (release.Rollout, error) {
	start, err := parseStart(f.start, time.Now())
	return release.Rollout{Percent: f.percent, Start: start}, err
}

func parseStart(s string, now time.Time) (time.Time, error) {
	now = now.UTC().Truncate(time.Second)
	if s == "" {
		return now, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("--start %q: want a time such as 2026-12-01T08:00:00Z, or a duration such as 2h", s)
	}
	return t.UTC(), nil
}

func (r *releaseApp) publishCommand() *cobra.Command {
	var version, edition, arch string
	var anyRoot bool
	var f rolloutFlags
	var small deltaFlags
	cmd := &cobra.Command{
		Use: "publish IMAGE...", Short: "Publish images, in the alpha channel", Args: cobra.MinimumNArgs(1),
		Long: `Publish images: folders that ` + "`wherry build`" + ` wrote, and further files, which belong to
the folder named before them. Files without a folder need --version, --edition
and --arch. What is published never changes; doing it again does nothing.

With an OS file (wherry.efi) come deltas: small files from which machines with an
older release get the same bytes. Each is applied and compared before it is signed,
which takes a minute or so; one that is no good is left out.`,
		Example: "  wherry release publish build/core-amd64\n  wherry release publish build/core-amd64 build/wherry.raw build/docker-amd64\n  wherry release publish build/core-amd64 --deltas none",
		RunE: func(cmd *cobra.Command, args []string) error {
			base := release.Manifest{Edition: edition, Arch: arch}
			var err error
			if version != "" {
				if base.Version, err = release.ParseVersion(version); err != nil {
					return err
				}
			}
			images, err := publishing.ReadImages(args, base)
			if err != nil {
				return err
			}
			rollout, err := f.rollout()
			if err != nil {
				return err
			}
			deltas, err := small.deltas(cmd, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			err = r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				repository.Deltas, repository.AnyRoot = deltas, anyRoot
				return repository.Publish(ctx, keys, images, rollout)
			})
			for _, i := range images {
				if err == nil {
					fmt.Fprint(cmd.ErrOrStderr(), aheadNote(i.Manifest.Version, time.Now()))
					fmt.Fprintf(cmd.OutOrStdout(), "published %s %s-%s\n", i.Manifest.Version, i.Manifest.Edition, i.Manifest.Arch)
				}
			}
			return err
		},
	}
	f.register(cmd)
	small.register(cmd)
	cmd.Flags().StringVar(&version, "version", "", "version of files without a folder")
	cmd.Flags().StringVar(&edition, "edition", "core", "edition of files without a folder")
	cmd.Flags().StringVar(&arch, "arch", "amd64", "architecture of files without a folder")
	cmd.Flags().BoolVar(&anyRoot, "any-root", false, "publish also OS files that carry no root role, or another repository's: their machines take no more updates from this one")
	return cmd
}

// channelFlag is a flag that takes a channel.
func channelFlag(cmd *cobra.Command, to *string, name, value, usage string) {
	cmd.Flags().StringVar(to, name, value, usage)
	complete(cmd, name, func(string) []string { return []string{"alpha", "beta", "stable"} })
}

func (r *releaseApp) promoteCommand() *cobra.Command {
	var to string
	var f rolloutFlags
	cmd := &cobra.Command{
		Use: "promote VERSION --to CHANNEL", Short: "Put a release into the next channel", Args: cobra.ExactArgs(1),
		Long:              "Put a release into the next channel: beta after alpha, stable after beta. Nothing is\nbuilt or copied, and it stays in the channels where it is.",
		Example:           "  wherry release promote 12.0.0 --to beta\n  wherry release promote 12.0.0 --to stable --percent 5 --start 2026-12-01T08:00:00Z",
		ValidArgsFunction: r.completeVersion,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, channel, rollout, err := f.parse(args[0], to)
			if err != nil {
				return err
			}
			return r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				if err := repository.Promote(ctx, keys, v, channel, rollout); err != nil {
					return err
				}
				sayRollout(cmd.OutOrStdout(), v, channel, rollout)
				return nil
			})
		},
	}
	f.register(cmd)
	channelFlag(cmd, &to, "to", "", "the channel: beta or stable")
	return cmd
}

func sayRollout(w io.Writer, v release.Version, c release.Channel, r release.Rollout) {
	fmt.Fprintf(w, "%s is for %d percent of %s, from %s on\n", v, r.Percent, c, r.Start.Format(time.RFC3339))
}

func (f rolloutFlags) parse(version, channel string) (v release.Version, c release.Channel, rollout release.Rollout, err error) {
	if v, err = release.ParseVersion(version); err != nil {
		return
	}
	if c, err = release.ParseChannel(channel); err != nil {
		return
	}
	rollout, err = f.rollout()
	return
}

func (r *releaseApp) rolloutCommand() *cobra.Command {
	var in string
	var f rolloutFlags
	cmd := &cobra.Command{
		Use: "rollout [VERSION] --channel CHANNEL --percent N", Short: "Widen, narrow or halt a rollout", Args: cobra.MaximumNArgs(1),
		Long: `Change how many machines of a channel take a release (default: the newest there),
and from when on. Each machine knows its place from its own id: when the
percentage rises, all who were in stay in. --percent 0 halts.`,
		Example:           "  wherry release rollout 12.0.0 --channel stable --percent 50\n  wherry release rollout --channel stable --percent 0",
		ValidArgsFunction: r.completeVersion,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("percent") {
				return &usageError{cmd, errors.New("say how far with --percent")}
			}
			return r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				if len(args) == 0 {
					channel, err := release.ParseChannel(in)
					if err != nil {
						return err
					}
					newest, err := repository.Newest(ctx, channel)
					if err != nil {
						return err
					}
					args = []string{newest.String()}
				}
				v, channel, rollout, err := f.parse(args[0], in)
				if err != nil {
					return err
				}
				if err := repository.Rollout(ctx, keys, v, channel, rollout); err != nil {
					return err
				}
				sayRollout(cmd.OutOrStdout(), v, channel, rollout)
				return nil
			})
		},
	}
	f.register(cmd)
	channelFlag(cmd, &in, "channel", "", "the channel")
	return cmd
}

func (r *releaseApp) withdrawCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "withdraw VERSION --reason TEXT", Short: "Make machines leave a release alone", Args: cobra.ExactArgs(1),
		Long:              "Make machines leave a release alone. Those that run it already stay there until a\nnewer one is published. This cannot be taken back.",
		Example:           "  wherry release withdraw 12.0.0 --reason 'loses the network on r8169'",
		ValidArgsFunction: r.completeVersion,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := release.ParseVersion(args[0])
			if err != nil {
				return err
			}
			if reason == "" || len(reason) > 500 {
				return &usageError{cmd, errors.New("say why with --reason, in at most 500 bytes")}
			}
			return r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				if err := repository.Withdraw(ctx, keys, v, reason); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is withdrawn\n", v)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "what is wrong with it, for all to read")
	return cmd
}

// aheadNote warns of a version whose line begins on a day to come.
func aheadNote(v release.Version, now time.Time) string {
	if v.Days <= release.DaysOn(now) {
		return ""
	}
	return fmt.Sprintf("warning: %s is of a line that begins on %s, which is to come: its machines take that day for one that has passed, and what expires before it for expired (see wherry release version)\n",
		v, v.Begun().Format(time.DateOnly))
}

func (r *releaseApp) removeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm VERSION", Short: "Take a withdrawn release out of the repository", Args: cobra.ExactArgs(1),
		Long:              "Take a withdrawn release out of the repository, with its files. Machines read at most\n1 MiB about releases, which is a thousand images.",
		Example:           "  wherry release rm 12.0.0",
		ValidArgsFunction: r.completeVersion,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := release.ParseVersion(args[0])
			if err != nil {
				return err
			}
			return r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				return repository.Remove(ctx, keys, v)
			})
		},
	}
}

func (r *releaseApp) refreshCommand() *cobra.Command {
	return &cobra.Command{
		Use: "refresh", Short: "Sign anew what expires soon", Args: cobra.NoArgs,
		Long: `Sign the timestamp anew (it lasts 14 days) and what else needs it. Do it daily, by a
timer: when the timestamp has expired, machines refuse the repository. With
--root-key, the root role (two years) is signed anew too.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				if len(r.rootKeys) > 0 {
					if err := repository.RenewRoot(keys); err != nil {
						return err
					}
				}
				return repository.Refresh(ctx, keys)
			})
		},
	}
}

func (r *releaseApp) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell how versions are counted", Args: cobra.NoArgs,
		Long: `Tell how versions (DAYS.MINOR.PATCH) are counted, and which day it is. 1.0.0 in the
examples is of the line that was begun on the project's day 1; a line of your own may
begin on any day that is not to come, and goes on with MINOR and PATCH.`,
		Example: "  wherry release version\n  wherry release version -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			days := release.DaysOn(time.Now())
			if r.output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"days": days, "epoch": release.Epoch.Format(time.DateOnly)})
			}
			fmt.Fprintf(cmd.OutOrStdout(), `A version is DAYS.MINOR.PATCH. DAYS are the days from %s, the project's first day,
to the day on which the line of releases was begun; today is day %d, so that a line
begun today starts with %d.0.0. MINOR counts what is added to the line, PATCH
what is mended. Versions are compared number by number, as semantic versions are.

So 1.0.0, as in this checkout's file VERSION and in the examples, is of the line that was
begun on %s, and 1.1.0 goes on with it. Your own releases may count in
the same line for as long as you like; only never let DAYS lie ahead of today,
since machines take the day of the release that runs for one that has passed.
`, release.Epoch.Format(time.DateOnly), days, days, release.Version{Days: 1}.Begun().Format(time.DateOnly))
			return nil
		},
	}
}

func (r *releaseApp) completeVersion(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	read, err := r.look(cmd.Context(), r.dir, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var versions []string
	for _, rel := range read.Releases {
		versions = append(versions, rel.Version.String())
	}
	return slices.Compact(versions), cobra.ShellCompDirectiveNoFileComp
}

func printReleases(w io.Writer, all []release.Release) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "VERSION\tIMAGE\tOS FILE\tDELTAS\tALL FILES\tPUBLISHED\tCHANNELS")
	for _, rel := range all {
		osFile := "none"
		if f, ok := rel.File(release.OSFile); ok {
			osFile = publishing.Size(f.Bytes)
		}
		fmt.Fprintf(t, "%s\t%s-%s\t%s\t%s\t%s\t%s\t%s\n", rel.Version, rel.Edition, rel.Arch, osFile, deltaText(rel), publishing.Size(rel.Bytes()),
			rel.Published.Format(time.DateOnly), channelText(rel, time.Now()))
	}
	return t.Flush()
}

// deltaText tells from how many releases there are deltas, and how large they are.
func deltaText(rel release.Release) string {
	if len(rel.Deltas) == 0 {
		return "none"
	}
	least, most := rel.Deltas[0].Bytes, rel.Deltas[0].Bytes
	for _, d := range rel.Deltas {
		least, most = min(least, d.Bytes), max(most, d.Bytes)
	}
	if len(rel.Deltas) == 1 {
		return fmt.Sprintf("from %s: %s", rel.Deltas[0].From, publishing.Size(least))
	}
	return fmt.Sprintf("%d: %s to %s", len(rel.Deltas), publishing.Size(least), publishing.Size(most))
}

func channelText(rel release.Release, now time.Time) string {
	if w := rel.Withdrawn; w != nil {
		return "withdrawn: " + w.Reason
	}
	var list []string
	for _, c := range release.Channels() {
		rollout, in := rel.Channels[c]
		switch {
		case !in:
		case now.Before(rollout.Start):
			list = append(list, fmt.Sprintf("%s %d%% from %s", c, rollout.Percent, rollout.Start.Format(time.RFC3339)))
		case rollout.Percent < 100:
			list = append(list, fmt.Sprintf("%s %d%%", c, rollout.Percent))
		default:
			list = append(list, string(c))
		}
	}
	return strings.Join(list, ", ")
}
