// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/internal/host/deb"
)

const (
	certificatePackage = "ca-certificates"
	maxCertificates    = 4 << 20
)

// certificates are the public CAs that a machine trusts.
type certificates struct {
	pem    []byte
	source deb.Candidate // no package when they come from a file
}

// loadCertificates takes the file given, else Debian's package, through the cache.
func loadCertificates(ctx context.Context, cache string, progress func(string)) (certificates, error) {
	c, err := deb.Resolve(ctx, certificatePackage)
	if err != nil {
		return certificates{}, fmt.Errorf("find CA certificates: %w\n(or give them yourself: --certificates FILE)", err)
	}
	cached := filepath.Join(cache, "certificates", c.Version+".pem")
	if data, err := os.ReadFile(cached); err == nil && checkCertificates(data) == nil {
		return certificates{pem: data, source: c}, nil
	}
	progress("certificates: fetching " + c.Package + " " + c.Version)
	data, err := fetchCertificates(ctx, c, filepath.Dir(cached))
	if err != nil {
		return certificates{}, fmt.Errorf("certificates: %w", err)
	}
	return certificates{pem: data, source: c}, os.WriteFile(cached, data, 0o644)
}

// readCertificates takes those of a file.
func readCertificates(file string) (certificates, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		err = checkCertificates(data)
	}
	if err != nil {
		return certificates{}, fmt.Errorf("certificates in %s: %w", file, err)
	}
	return certificates{pem: data}, nil
}

func fetchCertificates(ctx context.Context, c deb.Candidate, dir string) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".fetch-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	file, err := deb.Fetch(ctx, c, tmp)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	_, err = deb.Unpack(file, isCertificate, func(h *tar.Header, r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, maxCertificates))
		files[h.Name] = data
		return err
	})
	if err != nil {
		return nil, err
	}
	data := concatenate(files)
	return data, checkCertificates(data)
}

func isCertificate(name string) bool {
	return strings.HasPrefix(name, "usr/share/ca-certificates/mozilla/") && strings.HasSuffix(name, ".crt")
}

// concatenate joins the files in the order of their names.
func concatenate(files map[string][]byte) []byte {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	var out bytes.Buffer
	for _, n := range names {
		out.Write(bytes.TrimSpace(files[n]))
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// checkCertificates wants at least one certificate, and nothing broken.
func checkCertificates(data []byte) error {
	n := 0
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
		n++
	}
	if n == 0 {
		return errors.New("no certificate in it")
	}
	return nil
}
