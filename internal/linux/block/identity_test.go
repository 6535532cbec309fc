// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package block

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What kernels show of a virtio disk, a SATA disk (whose serial number is in a
// page of SCSI's), an NVMe disk, and a stick that says nothing useful.
func TestIdentify(t *testing.T) {
	sys := t.TempDir()
	for name, text := range map[string]string{
		"vda/serial":            "state",
		"vda/device/vendor":     "0x1af4\n",
		"sda/device/model":      "Samsung SSD 870 \n",
		"sda/device/vendor":     "ATA     \n",
		"sda/device/vpd_pg80":   "\x00\x80\x00\x14S4EWNX0R123456      ",
		"nvme0n1/device/model":  "WD Blue SN570\x1b[2J 1TB   \n",
		"nvme0n1/device/serial": "2148\n",
		"sdb/device/vendor":     "Generic \n",
		"sdb/device/model":      strings.Repeat("x", 200),
	} {
		path := filepath.Join(sys, "block", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for disk, want := range map[string]Identity{
		"vda":     {"", "state"},
		"sda":     {"Samsung SSD 870", "S4EWNX0R123456"},
		"nvme0n1": {"WD Blue SN570[2J 1TB", "2148"},
		"sdb":     {("Generic " + strings.Repeat("x", 64))[:64], ""},
		"gone":    {},
	} {
		if got := (Lister{Sys: sys}).Identify(disk); got != want {
			t.Errorf("%s is %+v, want %+v", disk, got, want)
		}
	}
}
