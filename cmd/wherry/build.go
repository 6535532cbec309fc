// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"wherry.example/wherry/internal/host/image"
	publishing "wherry.example/wherry/internal/host/publish"
)

const buildHelp = `Build the operating system out of this checkout: kernel, root image, initramfs,
manifest and list of contents, into build/EDITION-ARCH. --format makes more of
them, beside those:

  efi      wherry.efi: the OS in one file, for UEFI firmware (a unified kernel
           image)
  raw      wherry.raw: a disk with a boot loader and that file; the machine
           makes the partition for its state at the first boot, as large as
           the disk
  qcow2    wherry.qcow2: the same for QEMU and OpenStack
  iso      wherry.iso: a live medium, for CD drives and USB sticks: the machine
           runs from memory and touches no disk
  vhd      wherry.vhd: a disk for Azure and Hyper-V (fixed)
  vmdk     wherry.vmdk: a disk for VMware and importers (stream-optimised)
  ova      wherry.ova: a virtual machine with that disk
  gce      wherry-gce.tar.gz: a disk for Google Compute Engine
  netboot  wherry.ipxe: a script for iPXE that starts the parts beside it
  oci      wherry-oci.tar: the release as an artifact for registries (an OCI
           image layout)

With --secure-boot-key and --secure-boot-cert (RSA, PEM) the OS file and the
boot loader are signed for Secure Boot, and disks carry the certificate for the
loader's menu to enrol, or with --secure-boot-enroll for the loader to enrol by
itself where the firmware is in setup mode.

Machines update themselves from releases that --release-root signs: give the file
metadata/1.root.json that "wherry release init" made, or put it into the
checkout as release-root.json. Without it they take no updates.

The kernel is the newest Debian cloud kernel that apt offers, which knows
virtual machines. --kernel metal takes Debian's general one, with the drivers of
real hardware, and puts the image into build/EDITION-metal-ARCH: it is an edition
of its own, since a machine must never be updated to the other kind. Firmware
is in the image only as far as --firmware names Debian packages of it.

On systems without apt give a kernel with --kernel FILE and --modules, CA
certificates with --certificates, and systemd's boot stub and loader with
--boot-files.`

func newBuildCommand() *cobra.Command {
	var o image.Options
	var verbose bool
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build the operating system",
		Long:  buildHelp,
		Example: `  wherry build
  wherry build --format raw,qcow2
  wherry build --format iso,vhd,ova
  wherry build --kernel metal --format raw --firmware firmware-realtek
  wherry build --format efi,qcow2 --release-root repository/metadata/1.root.json
  wherry build --format efi --release-version 12.1.0 --to build/next`,
		Args: refuseFolder,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
			r, err := image.Build(cmd.Context(), o)
			if err != nil {
				return err
			}
			if out := cmd.Flag("output"); out != nil && out.Value.String() == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r.Manifest)
			}
			return printBuild(cmd.OutOrStdout(), r, verbose)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Edition, "edition", "core", "which edition to build, from editions/")
	f.StringVar(&o.Source, "source", "", "the checkout to build (default: the one around the current folder)")
	f.StringVar(&o.Output, "to", "", "where to put the image (default: build/EDITION-ARCH in the checkout)")
	f.StringVar(&o.Kernel, "kernel", "", "Debian's kernel for virtual machines (cloud) or real hardware (metal); or a kernel image to use instead (default: cloud)")
	f.StringVar(&o.Modules, "modules", "", "folder of that kernel image's modules (as in /lib/modules/RELEASE)")
	f.StringSliceVar(&o.Firmware, "firmware", nil, "Debian package whose firmware drivers may load; again for more")
	f.StringVar(&o.Certificates, "certificates", "", "file of CA certificates (PEM) to use instead of Debian's")
	f.StringVar(&o.BootFiles, "boot-files", "", "folder of linuxx64.efi.stub and systemd-bootx64.efi to use instead of Debian's")
	f.StringVar(&o.Version, "release-version", "", "build as this version, DAYS.MINOR.PATCH (default: the checkout's file VERSION)")
	f.StringVar(&o.ReleaseRoot, "release-root", "", "root.json of the release repository that machines trust (default: release-root.json in the checkout, if it is there)")
	f.StringSliceVar(&o.Formats, "format", nil, "also make: "+strings.Join(image.Formats, ", "))
	f.StringVar(&o.SecureBootKey, "secure-boot-key", "", "sign for Secure Boot with this RSA key (PEM)")
	f.StringVar(&o.SecureBootCertificate, "secure-boot-cert", "", "the key's certificate (PEM)")
	f.StringVar(&o.LiveConfig, "live-config", "", "configuration to put onto the live medium, as wherry.yaml")
	f.BoolVar(&o.SecureBootEnroll, "secure-boot-enroll", false, "have disks enrol the certificate at their first boot")
	f.BoolVarP(&verbose, "verbose", "v", false, "print the size of every program and group of modules")
	return cmd
}

func printBuild(w io.Writer, r image.Result, verbose bool) error {
	m := r.Manifest
	fmt.Fprintf(w, "wherry %s %s-%s in %s (%.1f s)\n", m.Version, m.Edition, m.Arch, r.Dir, r.Took.Seconds())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range m.Parts {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", p.Name, publishing.Size(p.Bytes), p.SHA256[:16])
	}
	if m.Trust != nil {
		fmt.Fprintf(t, "  updates from\t\troot %d, key %.16s\n", m.Trust.RootVersion, strings.Join(m.Trust.Keys, " "))
	}
	if m.Trust == nil && m.Boot != nil { // what firmware starts could be updated; bare parts could not
		fmt.Fprint(t, "  updates from\t\tnobody: it can never be updated, unless it is built with --release-root FILE\n")
	}
	if m.Boot != nil {
		fmt.Fprintf(t, "  PCR 11\t\t%s\n", m.Boot.PCR11[:16])
	}
	for _, f := range m.Firmware {
		fmt.Fprintf(t, "  %s %s\t%s\t\n", f.Package, f.Version, strings.Join(f.Licences, ", "))
	}
	if !verbose {
		return t.Flush()
	}
	fmt.Fprintf(t, "programs, uncompressed\t\t\n")
	for _, p := range r.Programs {
		fmt.Fprintf(t, "  %s\t%s\t\n", p.Name, publishing.Size(p.Bytes))
	}
	fmt.Fprintf(t, "modules, uncompressed\t\t\n")
	for _, c := range r.Modules {
		fmt.Fprintf(t, "  %s\t%s\t%d new modules\n", c.Group, publishing.Size(int64(c.Bytes)), c.Modules)
	}
	return t.Flush()
}
