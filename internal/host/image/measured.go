// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/hex"
	"fmt"

	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/release"
)

// measurePrograms notes the Authenticode hashes of the programs that firmware
// starts. Signing does not change them. The kernel in the OS file is not among
// them: started alone, it could run anybody's initramfs.
func measurePrograms(b *release.Boot, loader, file []byte) error {
	for _, p := range []struct {
		name    string
		program []byte
		into    *string
	}{{"boot loader", loader, &b.Loader}, {"OS file", file, &b.File}} {
		image, err := pe.Parse(p.program)
		if err != nil {
			return fmt.Errorf("measure the %s: %w", p.name, err)
		}
		digest := image.Digest()
		*p.into = hex.EncodeToString(digest[:])
	}
	return nil
}
