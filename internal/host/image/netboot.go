// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"os"
	"path/filepath"

	"wherry.example/wherry/internal/format/ociartifact"
	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/internal/host/rootfs"
)

// writeNetboot writes iPXE's script, which fetches kernel and initramfs from the
// place that it came from itself: those are parts of every image.
func (b *build) writeNetboot(path string, _ disk.Contents) error {
	script := fmt.Sprintf(`#!ipxe
# Wherry %s over the network. Put the files kernel and initramfs beside this one.
kernel kernel initrd=initramfs %s
initrd initramfs
boot
`, b.version, bootimage.Cmdline)
	return os.WriteFile(path, []byte(script), 0o644)
}

// Kinds of what the artifact holds.
const (
	artifactType       = "application/vnd.wherry.release.v1"
	manifestMediaType  = "application/vnd.wherry.release.manifest.v1+json"
	partMediaType      = "application/vnd.wherry.part."
	cycloneDXMediaType = "application/vnd.cyclonedx+json"
)

// partMediaTypes are those of the parts in an artifact; they are in this order.
var partMediaTypes = []struct{ name, mediaType string }{
	{osFile, partMediaType + "efi"},
	{"kernel", partMediaType + "kernel"},
	{"initramfs", partMediaType + "initramfs"},
	{"root.squashfs", partMediaType + "squashfs"},
	{"sbom.json", cycloneDXMediaType},
}

// writeOCI writes the release as an OCI artifact: the parts and the OS file, and a
// manifest of just those, since the artifact cannot be in its own manifest.
func (b *build) writeOCI(path string, c disk.Contents) error {
	if err := os.WriteFile(filepath.Join(b.tmp, osFile), c.OS, 0o644); err != nil {
		return err
	}
	a := ociartifact.Artifact{Type: artifactType, Tag: b.version, Time: rootfs.Epoch}
	var names []string
	for _, p := range partMediaTypes {
		data, err := os.ReadFile(filepath.Join(b.tmp, p.name))
		if err != nil {
			return err
		}
		a.Layers = append(a.Layers, ociartifact.Blob{Name: p.name, MediaType: p.mediaType, Data: data})
		names = append(names, p.name)
	}
	m, err := b.manifest(names)
	if err != nil {
		return err
	}
	a.Annotations = map[string]string{
		"org.opencontainers.image.title":   "Wherry " + m.Edition,
		"org.opencontainers.image.version": b.version,
		"wherry.edition":                   m.Edition,
		"wherry.arch":                      m.Arch,
	}
	if a.Config.Data, err = encodeManifest(m); err != nil {
		return err
	}
	a.Config.MediaType = manifestMediaType
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := ociartifact.Write(f, a); err != nil {
		return err
	}
	return f.Close()
}
