// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"wherry.example/wherry/config"
)

// Source is one place that a configuration can come from.
type Source struct {
	// Name as it is shown to people: "api", "fw_cfg".
	Name string
	// Read returns the document. An error that is fs.ErrNotExist says that
	// there is none.
	Read func(ctx context.Context) ([]byte, error)
}

const (
	// SourceAPI is the document that was applied through the API.
	SourceAPI = "api"
	// SourceFwCfg is the document that QEMU hands over.
	SourceFwCfg = "fw_cfg"
	// SourceLastGood is a copy of the newest document that was good.
	SourceLastGood = "last good"
	// SourceDefault is the machine without a document.
	SourceDefault = "default"
)

// Stored is the document in a file of the state.
func Stored(path string) Source {
	return Source{Name: SourceAPI, Read: func(context.Context) ([]byte, error) { return readBounded(path) }}
}

const (
	fwCfgModule = "qemu_fw_cfg"
	// fwCfgDevice is how ACPI announces it: asking a machine that has none costs one stat.
	fwCfgDevice = "sys/bus/acpi/devices/QEMU0002:00"
	fwCfgItem   = "sys/firmware/qemu_fw_cfg/by_name/opt/wherry/config/raw"
)

// FwCfg is the document that QEMU's -fw_cfg opt/wherry/config holds. load
// loads kernel modules by name.
func FwCfg(load func(names ...string) error) Source { return fwCfg("/", load) }

func fwCfg(root string, load func(names ...string) error) Source {
	return Source{Name: SourceFwCfg, Read: func(context.Context) ([]byte, error) {
		if _, err := os.Stat(filepath.Join(root, fwCfgDevice)); err != nil {
			return nil, err
		}
		item := filepath.Join(root, fwCfgItem)
		doc, err := readBounded(item)
		if !errors.Is(err, fs.ErrNotExist) {
			return doc, err
		}
		// The module is loaded for the hardware at boot, at the same time as we run: loading it again waits for it.
		if err := load(fwCfgModule); err != nil {
			return nil, fmt.Errorf("load the module for QEMU's configuration: %w", err)
		}
		return readBounded(item)
	}}
}

// readBounded reads one byte more than a document may have, so that Parse
// refuses what is longer instead of seeing its beginning.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	doc, err := io.ReadAll(io.LimitReader(f, config.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return doc, nil
}
