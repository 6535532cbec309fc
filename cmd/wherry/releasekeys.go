// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	publishing "wherry.example/wherry/internal/host/publish"
)

var releaseRoles = []string{"root", "targets", "snapshot", "timestamp"}

func completeRoles(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return slices.DeleteFunc(slices.Clone(releaseRoles), func(r string) bool { return slices.Contains(args, r) }), cobra.ShellCompDirectiveNoFileComp
}

func (r *releaseApp) keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make, change and show the keys of a repository"}
	cmd.AddCommand(r.keyNewCommand(), r.keyRotateCommand(), r.keyShowCommand())
	return cmd
}

func (r *releaseApp) keyNewCommand() *cobra.Command {
	var protect bool
	cmd := &cobra.Command{
		Use: "new [ROLE...]", Short: "Make keys",
		Long: `Make keys for roles: root, targets, snapshot, timestamp (default: all). The root's go
into the files named with --root-key, one each; the others into the --keys folder.
Files that are there are never replaced.`,
		Example: "  wherry release key new --root-key /media/safe/root.pem --passphrase",
		Args:    cobra.OnlyValidArgs, ValidArgs: releaseRoles,
		RunE: func(cmd *cobra.Command, roles []string) error {
			keys := r.keyring(cmd)
			keys.Protect = protect
			if len(roles) == 0 {
				roles = releaseRoles
			}
			if slices.Contains(roles, "root") && len(r.rootKeys) == 0 {
				return &usageError{cmd, errors.New("name a file for the root key with --root-key")}
			}
			return r.makeKeys(cmd, keys, roles)
		},
	}
	cmd.Flags().BoolVar(&protect, "passphrase", false, "protect the new files with a passphrase")
	return cmd
}

func (r *releaseApp) makeKeys(cmd *cobra.Command, keys publishing.Keys, roles []string) error {
	for _, role := range roles {
		files := []string{""} // named by the key's id
		if role == "root" {
			files = r.rootKeys
		}
		for _, file := range files {
			k, err := keys.New(role, file)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s key %s in %s\n", role, k.ID()[:16], k.File)
		}
	}
	return nil
}

func (r *releaseApp) keyRotateCommand() *cobra.Command {
	var fresh []string
	var protect bool
	cmd := &cobra.Command{
		Use: "rotate ROLE", Short: "Replace the keys of a role", Args: cobra.ExactArgs(1), ValidArgsFunction: completeRoles,
		Long: `Replace a role's key by a new one, and sign anew what the old one had signed. The
root key is needed. Machines follow by themselves, also those that were off for
years. New root keys go into the files named with --new-root-key.`,
		Example: "  wherry release key rotate timestamp --root-key root.pem\n  wherry release key rotate root --root-key root.pem --new-root-key root2.pem",
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.with(cmd, func(ctx context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				keys.Protect = protect
				if args[0] != "root" {
					k, err := repository.Rotate(ctx, args[0], keys)
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "%s key %s in %s\n", k.Role, k.ID()[:16], k.File)
					}
					return err
				}
				if len(fresh) == 0 {
					return &usageError{cmd, errors.New("name files for the new root keys with --new-root-key")}
				}
				made, err := newRootKeys(keys, fresh)
				if err != nil {
					return err
				}
				return repository.RotateRoot(keys, made)
			})
		},
	}
	cmd.Flags().StringArrayVar(&fresh, "new-root-key", nil, "file for a new root key, or with one; again for more")
	cmd.Flags().BoolVar(&protect, "passphrase", false, "protect the new files with a passphrase")
	return cmd
}

// newRootKeys reads the files that are there and makes those that are not.
func newRootKeys(keys publishing.Keys, files []string) (made []publishing.Key, err error) {
	for _, file := range files {
		var k publishing.Key
		if _, serr := os.Stat(file); errors.Is(serr, fs.ErrNotExist) {
			k, err = keys.New("root", file)
		} else {
			k, err = keys.Read("root", file)
		}
		if err != nil {
			return nil, err
		}
		made = append(made, k)
	}
	return made, nil
}

func (r *releaseApp) keyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show which keys the repository trusts", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return r.with(cmd, func(_ context.Context, repository *publishing.Repository, keys publishing.Keys) error {
				infos, err := repository.KeyInfos(keys)
				if err != nil {
					return err
				}
				if r.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(infos)
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(t, "ROLE\tKEY\tNEEDED\tSIGNED UNTIL\tPRIVATE KEY")
				for _, i := range infos {
					fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", i.Role, i.ID[:16], i.Threshold, i.Expires.Format(time.DateOnly), i.File)
				}
				return t.Flush()
			})
		},
	}
}
