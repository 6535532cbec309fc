// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"wherry.example/wherry/internal/format/kernelmodule"
	"wherry.example/wherry/internal/host/kernel"
	"wherry.example/wherry/internal/host/rootfs"
	"wherry.example/wherry/release"
)

// emptyDirs are what the machine mounts or writes on.
var emptyDirs = []string{"proc", "sys", "dev", "run", "tmp", "state", "var", "root"}

// texts are the fixed files of the root.
var texts = map[string]string{
	"etc/passwd":        "root:x:0:0:root:/root:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n",
	"etc/group":         "root:x:0:\nnobody:x:65534:\n",
	"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

// rootTree is the root file system.
func (b *build) rootTree() (*rootfs.Tree, error) {
	t := &rootfs.Tree{}
	for _, d := range emptyDirs {
		if err := t.Dir(d, 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range texts {
		if err := t.File(name, 0o644, []byte(text)); err != nil {
			return nil, err
		}
	}
	if err := b.addIdentity(t); err != nil {
		return nil, err
	}
	for _, p := range b.binaries {
		data, err := os.ReadFile(p.Path)
		if err != nil {
			return nil, err
		}
		if err := t.File("bin/"+p.Name, 0o755, data); err != nil {
			return nil, err
		}
	}
	if err := addFirmware(t, b.firmware); err != nil {
		return nil, err
	}
	return t, addModules(t, "lib/modules", b.root)
}

// addFirmware puts firmware where the kernel looks for it, and each package's
// copyright file beside: many licences want to go where the firmware goes.
func addFirmware(t *rootfs.Tree, packages []kernel.Firmware) error {
	for _, p := range packages {
		if err := t.File("lib/firmware/"+p.Source.Package+".copyright", 0o644, p.Copyright); err != nil {
			return err
		}
		for _, f := range p.Files {
			add := func(name string) error { return t.File(name, 0o644, f.Data) }
			if f.Target != "" {
				add = func(name string) error { return t.Symlink(name, f.Target) }
			}
			if err := add("lib/firmware/" + f.Name); err != nil {
				return fmt.Errorf("firmware of package %s: %w", p.Source.Package, err)
			}
		}
	}
	return nil
}

func (b *build) addIdentity(t *rootfs.Tree) error {
	if err := t.File("etc/os-release", 0o644, []byte(b.osRelease())); err != nil {
		return err
	}
	if err := t.File("etc/ssl/certs/ca-certificates.crt", 0o644, b.certs.pem); err != nil {
		return err
	}
	if b.trust.file != nil {
		if err := t.File(strings.TrimPrefix(release.RootFile, "/"), 0o644, b.trust.file); err != nil {
			return err
		}
	}
	if err := t.Symlink("etc/resolv.conf", "/run/wherry/resolv.conf"); err != nil {
		return err
	}
	return b.addInit(t)
}

// addInit puts PID 1 into the root. The kernel runs the same program when it wants a module.
func (b *build) addInit(t *rootfs.Tree) error {
	data, err := os.ReadFile(b.init.Path)
	if err != nil {
		return err
	}
	if err := t.File("sbin/init", 0o755, data); err != nil {
		return err
	}
	return t.Symlink("sbin/modprobe", "init")
}

func (b *build) osRelease() string {
	var s strings.Builder
	fmt.Fprintf(&s, "NAME=\"Wherry\"\nID=wherry\nPRETTY_NAME=\"Wherry %s (%s)\"\n", b.version, b.edition.Name)
	fmt.Fprintf(&s, "VERSION_ID=%s\nVARIANT_ID=%s\nIMAGE_ID=wherry-%s\nIMAGE_VERSION=%s\n",
		b.version, b.edition.Name, b.edition.Name, b.version)
	return s.String()
}

// earlyTree is what lies in the initramfs beside the root image.
func (b *build) earlyTree() (*rootfs.Tree, error) {
	t := &rootfs.Tree{}
	data, err := os.ReadFile(b.early.Path)
	if err != nil {
		return nil, err
	}
	if err := t.File("init", 0o755, data); err != nil {
		return nil, err
	}
	for _, d := range []string{"dev", "proc", "sys", "newroot"} {
		if err := t.Dir(d, 0o755); err != nil {
			return nil, err
		}
	}
	// The kernel opens /dev/console for PID 1, which opens its log before /dev is mounted.
	if err := errors.Join(t.CharDevice("dev/console", 0o600, 5, 1), t.CharDevice("dev/kmsg", 0o600, 1, 11)); err != nil {
		return nil, err
	}
	return t, addEarlyModules(t, b.earlyModules)
}

// addEarlyModules adds what wherry-early loads, in this order: each module trimmed,
// which a kernel loads quicker, and as it was signed, which a kernel in lockdown
// wants. The second packs to little more than its signature.
func addEarlyModules(t *rootfs.Tree, s *kernel.Selection) error {
	var names []string
	for _, m := range s.Index.Modules {
		names = append(names, m.Name)
	}
	modules, err := s.Index.Order(names...)
	if err != nil {
		return err
	}
	var order bytes.Buffer
	for _, m := range modules {
		fmt.Fprintln(&order, m.Name)
		signed := s.Files[m.File]
		trimmed := kernelmodule.Trim(bytes.Clone(signed))
		if err := errors.Join(t.File("modules/"+m.Name, 0o644, trimmed), t.File("modules/"+m.Name+".signed", 0o644, signed)); err != nil {
			return err
		}
	}
	return t.File("modules/order", 0o644, order.Bytes())
}

// addModules adds a selection and its index.
func addModules(t *rootfs.Tree, dir string, s *kernel.Selection) error {
	var index bytes.Buffer
	if err := s.Index.Encode(&index); err != nil {
		return err
	}
	if err := t.File(path.Join(dir, "index"), 0o644, index.Bytes()); err != nil {
		return err
	}
	t.Place(path.Join(dir, "index"))
	for _, name := range s.Order {
		if err := t.File(path.Join(dir, name), 0o644, s.Files[name]); err != nil {
			return err
		}
		t.Place(path.Join(dir, name))
	}
	return nil
}
