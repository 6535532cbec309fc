// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/vmtest"
)

// oddWords are on no right-minded command line; the first programs read it.
const oddWords = `GODEBUG=x=1 GOMEMLIMIT=1 init= wherry. wherry.onfail=x wherry.onfail wherry.debug="1" -- wherry.= "wherry.chaos= `

// TestDamagedRoot: who starts a damaged image is told so, at once and in words.
func TestDamagedRoot(t *testing.T) {
	whole, dir := vmtest.Image(t), t.TempDir()
	for _, name := range []string{"kernel", "initramfs"} {
		data, err := os.ReadFile(filepath.Join(whole, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "initramfs" {
			root := bytes.LastIndex(data, []byte("root.squashfs\x00"))
			at := root + bytes.Index(data[root:], []byte("hsqs"))
			copy(data[at:], "none")
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m := vmtest.New(t, vmtest.Options{Image: dir, NoDisk: true, Cmdline: oddWords})
	err := m.TryStart()
	if err == nil {
		t.Fatal("it became ready")
	}
	for _, want := range []string{
		"the machine could not boot: root image: mount /root.squashfs on /newroot: it is damaged",
		"The initramfs is damaged or not Wherry's",
		"The machine restarts in 30 seconds",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not say %q:\n%v", want, err)
		}
	}
}
