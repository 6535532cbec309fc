// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package ova writes appliances: a tar archive of a description in OVF, the
// checksums of its files, and a disk.
//
// The description comes first and the checksums second, as readers of streams
// expect. It asks for UEFI firmware in VMware's words (the OVF standard has none), for
// a SATA disk, and for VMware's network adapter; VirtualBox takes the rest and
// has to be told about the firmware and the adapter. Equal input gives equal bytes.
package ova

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"
)

// Appliance is a virtual machine with one disk.
type Appliance struct {
	Name      string // of the machine, and of the files in the archive
	Version   string
	CPUs      int
	MemoryMiB int
	Disk      []byte // stream-optimised VMDK, which must call itself Name.vmdk
	DiskBytes int64  // of the disk in it
	UsedBytes int64  // of that, about
	Time      time.Time
}

//go:embed ovf.xml
var text string

var description = template.Must(template.New("ovf").Funcs(template.FuncMap{"xml": escape}).Parse(text))

func escape(s string) (string, error) {
	var b strings.Builder
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}

// Write writes the archive.
func Write(w io.Writer, a Appliance) error {
	if a.Name == "" || len(a.Name) > 80 || strings.ContainsAny(a.Name, "/\\()=\n\r") {
		return fmt.Errorf("write an appliance: %q is not a name", a.Name)
	}
	var ovf bytes.Buffer
	if err := description.Execute(&ovf, a); err != nil {
		return fmt.Errorf("describe the appliance: %w", err)
	}
	sums := fmt.Sprintf("SHA256(%[1]s.ovf)= %[2]x\nSHA256(%[1]s.vmdk)= %[3]x\n", a.Name, sha256.Sum256(ovf.Bytes()), sha256.Sum256(a.Disk))
	archive := tar.NewWriter(w)
	for _, f := range []struct {
		suffix string
		data   []byte
	}{{".ovf", ovf.Bytes()}, {".mf", []byte(sums)}, {".vmdk", a.Disk}} {
		h := &tar.Header{Name: a.Name + f.suffix, Size: int64(len(f.data)), Mode: 0o644, ModTime: a.Time, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(h); err != nil {
			return fmt.Errorf("write an appliance: %w", err)
		}
		if _, err := archive.Write(f.data); err != nil {
			return fmt.Errorf("write an appliance: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write an appliance: %w", err)
	}
	return nil
}
