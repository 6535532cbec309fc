// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	publishing "wherry.example/wherry/internal/host/publish"
	"wherry.example/wherry/release"
)

// config says how the repository at a place is read: a folder, a URL or a
// bundle. Only a folder of one's own may say by itself whom to trust.
func (r *releaseApp) config(place, root string) (c release.Config, closer func() error, err error) {
	closer = func() error { return nil }
	info, serr := os.Stat(place)
	switch {
	case strings.HasPrefix(place, "http://"), strings.HasPrefix(place, "https://"):
		c.Source, err = release.NewHTTP(place)
	case serr != nil:
		err = serr
	case info.IsDir():
		c.Source, c.Carried = release.Dir(place), true
		if root == "" {
			root = filepath.Join(place, "metadata", "1.root.json")
		}
	default:
		var f *os.File
		if f, err = os.Open(place); err != nil {
			break
		}
		closer, c.Carried = f.Close, true
		if c.Source, err = release.OpenBundle(f, info.Size()); err != nil {
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		return c, closer, err
	}
	if root == "" {
		return c, closer, errors.Join(errors.New("say whom to trust: --root FILE, the first root.json of the repository, from somebody you believe"), closer())
	}
	c.Root, err = os.ReadFile(root)
	return c, closer, err
}

// look reads a repository's metadata.
func (r *releaseApp) look(ctx context.Context, place, root string) (*release.Repository, error) {
	c, closer, err := r.config(place, root)
	if err != nil {
		return nil, err
	}
	read, err := release.Refresh(ctx, c)
	return read, errors.Join(err, closer())
}

func rootFlag(cmd *cobra.Command, root *string) {
	cmd.Flags().StringVar(root, "root", "", "root.json to trust (default: that of the folder)")
}

// placeOf is the argument, or the repository.
func (r *releaseApp) placeOf(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return r.dir
}

func (r *releaseApp) listCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use: "ls [DIR|URL|FILE.wherry]", Aliases: []string{"list"}, Short: "List releases", Args: cobra.MaximumNArgs(1),
		Long:    "List the releases of a repository in a folder, on a web server, or in a bundle. All\nsignatures are checked.\n\nOS FILE is what a machine downloads, DELTAS what it downloads instead from older\nreleases (how many there are, the smallest and the largest), and ALL FILES what the\nrelease takes in the repository, with disks and parts, without deltas.",
		Example: "  wherry release ls\n  wherry release ls https://releases.example/wherry --root 1.root.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			read, err := r.look(cmd.Context(), r.placeOf(args), root)
			if err != nil {
				return err
			}
			if r.output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(read.Releases)
			}
			return printReleases(cmd.OutOrStdout(), read.Releases)
		},
	}
	rootFlag(cmd, &root)
	return cmd
}

func (r *releaseApp) verifyCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use: "verify [DIR|URL|FILE.wherry]", Short: "Check every file of a repository or a bundle", Args: cobra.MaximumNArgs(1),
		Long: "Read a repository or a bundle as a machine does and check every file in it against\nthe signed hashes. What a bundle leaves out is not missed.",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, closer, err := r.config(r.placeOf(args), root)
			if err != nil {
				return err
			}
			defer closer()
			read, err := release.Refresh(cmd.Context(), c)
			if err != nil {
				return err
			}
			good, err := verifyAll(cmd.Context(), c, read)
			if err != nil {
				return err
			}
			return r.printVerified(cmd.OutOrStdout(), read, good)
		},
	}
	rootFlag(cmd, &root)
	return cmd
}

// verifyAll checks the releases that are there, and returns them with the files that are there.
func verifyAll(ctx context.Context, c release.Config, read *release.Repository) (good []release.Release, err error) {
	bundle, _ := c.Source.(*release.Bundle)
	for _, rel := range read.Releases {
		if bundle != nil && !bundle.Has(rel) {
			continue
		}
		if _, err := read.Manifest(ctx, rel); err != nil {
			return nil, err
		}
		if bundle != nil {
			rel.Files = slices.DeleteFunc(slices.Clone(rel.Files), func(f release.File) bool { return !bundle.Holds(f) })
		}
		if err := verifyFiles(ctx, read, rel.Files); err != nil {
			return nil, err
		}
		good = append(good, rel)
	}
	return good, nil
}

func (r *releaseApp) printVerified(w io.Writer, read *release.Repository, good []release.Release) error {
	if r.output == "json" {
		return json.NewEncoder(w).Encode(map[string]any{"root": read.Root, "targets": read.Targets, "expires": read.Expires, "good": good})
	}
	for _, rel := range good {
		fmt.Fprintf(w, "%s %s-%s: %d files, %s: good\n", rel.Version, rel.Edition, rel.Arch, len(rel.Files)+1, publishing.Size(rel.Bytes()))
	}
	_, err := fmt.Fprintf(w, "Root role %d, targets %d, good until %s.\n", read.Root, read.Targets, read.Expires.Format(time.RFC3339))
	return err
}

func verifyFiles(ctx context.Context, read *release.Repository, files []release.File) error {
	for _, f := range files {
		if err := read.Verify(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (r *releaseApp) chooseCommand() *cobra.Command {
	var root, id, edition, arch, current, channel, pin string
	cmd := &cobra.Command{
		Use: "choose [DIR|URL|FILE.wherry] --id ID", Short: "Tell which release a machine would take", Args: cobra.MaximumNArgs(1),
		Long:    "Tell which release a machine with that id would take, or why it stays where it is.",
		Example: "  wherry release choose --id 4f0c… --channel stable --current 12.0.0",
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := machineOf(id, edition, arch, current, channel, pin)
			if err != nil {
				return err
			}
			read, err := r.look(cmd.Context(), r.placeOf(args), root)
			if err != nil {
				return err
			}
			rel, found, why := release.Choose(read.Releases, m, time.Now())
			switch {
			case r.output == "json" && found:
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"take": rel})
			case r.output == "json":
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"stay": why})
			case found:
				fmt.Fprintf(cmd.OutOrStdout(), "It takes %s.\n", rel.Version)
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "It stays with %s: %s.\n", current, why)
			}
			return nil
		},
	}
	rootFlag(cmd, &root)
	f := cmd.Flags()
	f.StringVar(&id, "id", "", "the machine's id")
	f.StringVar(&edition, "edition", "core", "its edition")
	f.StringVar(&arch, "arch", "amd64", "its architecture")
	f.StringVar(&current, "current", "0.0.0", "what it runs")
	f.StringVar(&pin, "pin", "", "the version that it is pinned to")
	channelFlag(cmd, &channel, "channel", "stable", "its channel")
	return cmd
}

func machineOf(id, edition, arch, current, channel, pin string) (m release.Machine, err error) {
	m = release.Machine{ID: id, Edition: edition, Arch: arch}
	if id == "" {
		return m, errors.New("name the machine with --id")
	}
	if m.Channel, err = release.ParseChannel(channel); err != nil {
		return m, err
	}
	if m.Current, err = release.ParseVersion(current); err != nil || pin == "" {
		return m, err
	}
	pinned, err := release.ParseVersion(pin)
	m.Pin = &pinned
	return m, err
}

func (r *releaseApp) bundleCommand() *cobra.Command {
	var out string
	var all bool
	cmd := &cobra.Command{
		Use: "bundle VERSION -o FILE.wherry", Short: "Put a release into one signed file", Args: cobra.ExactArgs(1),
		Long: `Put a release and all that proves it into one file, for machines without a network:
its OS file, or with --all everything that was published of it.
It is checked as the repository is, but may be carried around for as long as the
signature of the releases lasts (a year).`,
		Example:           "  wherry release bundle 12.0.0 -o 12.0.0.wherry",
		ValidArgsFunction: r.completeVersion,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := release.ParseVersion(args[0])
			if err != nil {
				return err
			}
			if out == "" {
				out = v.String() + ".wherry"
			}
			return r.bundle(cmd, v, out, all)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "with what machines do not take: the parts by themselves, disks, lists")
	cmd.Flags().StringVarP(&out, "output", "o", "", "the file (default: VERSION.wherry)")
	return cmd
}

func (r *releaseApp) bundle(cmd *cobra.Command, v release.Version, out string, all bool) error {
	parts := []string{release.OSFile}
	if all {
		parts = nil
	}
	c, closer, err := r.config(r.dir, "")
	if err != nil {
		return err
	}
	defer closer()
	f, err := os.CreateTemp(filepath.Dir(out), ".wherry-tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left
	var found []string
	err = release.WriteBundle(cmd.Context(), f, c, func(rel release.Release) bool {
		if rel.Version != v {
			return false
		}
		found = append(found, rel.Edition+"-"+rel.Arch)
		return true
	}, parts...)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("release %s is not published: see `wherry release ls`", v)
	}
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), out); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s for %s\n", out, v, strings.Join(found, ", "))
	return nil
}

func (r *releaseApp) serveCommand() *cobra.Command {
	var address, reports string
	var behind []string
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve the repository, and a page that tells how releases fare", Args: cobra.NoArgs,
		Long: `Serve the repository's files over HTTP. The page at / and /status.json tell which
releases run where, as far as machines report it (their owners decide), how
rollouts go, why releases did not work, and where people went back from them.
Needs no keys.

An address may send 60 reports a minute. Behind a proxy all come from the
proxy's: name it with --trust-proxy, and the address is the last one in
X-Forwarded-For that is not a trusted proxy's. The proxy must write that header
itself, as they do by default or when told so.`,
		Example: "  wherry release serve\n  wherry release serve --listen :9474 --reports /var/lib/wherry/reports.json\n  wherry release serve --trust-proxy 127.0.0.1,10.0.0.0/8",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := r.look(cmd.Context(), r.dir, ""); err != nil {
				return err
			}
			if reports == "" {
				reports = filepath.Join(r.dir, ".reports.json")
			}
			kept, err := publishing.OpenReports(reports, time.Now)
			if err != nil {
				return err
			}
			if kept.Proxies, err = publishing.ParseProxies(behind); err != nil {
				return fmt.Errorf("--trust-proxy: %w", err)
			}
			listener, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", address)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "serving %s on http://%s/\n", r.dir, listener.Addr())
			s := &publishing.Server{Dir: r.dir, Reports: kept, Now: time.Now, Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))}
			return s.Serve(cmd.Context(), listener)
		},
	}
	cmd.Flags().StringVar(&address, "listen", "127.0.0.1:9474", "address to serve on")
	cmd.Flags().StringSliceVar(&behind, "trust-proxy", nil, "address or network of a proxy whose X-Forwarded-For is believed; again for more")
	cmd.Flags().StringVar(&reports, "reports", "", "file in which reports are kept (default: .reports.json in the repository)")
	return cmd
}
