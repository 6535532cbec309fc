// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package goimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const certificatesPath = "/etc/ssl/certs/ca-certificates.crt"

// node is one file or directory of the base layer.
type node struct {
	name  string // ends in / for a directory
	mode  int64
	owner int
	body  string
}

// base is what a static program may look for.
var base = []node{
	{"app/", 0o755, 0, ""},
	{"etc/", 0o755, 0, ""},
	{"etc/group", 0o644, 0, "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n"},
	{"etc/nsswitch.conf", 0o644, 0, "hosts: files dns\n"},
	{"etc/passwd", 0o644, 0, "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n" +
		"nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"},
	{"etc/ssl/", 0o755, 0, ""},
	{"etc/ssl/certs/", 0o755, 0, ""},
	{"home/", 0o755, 0, ""},
	{"home/nonroot/", 0o700, user, ""},
	{"root/", 0o700, 0, ""},
	{"tmp/", 0o1777, 0, ""},
	{"var/", 0o755, 0, ""},
	{"var/tmp/", 0o1777, 0, ""},
}

func baseLayer(bundle string) (v1.Layer, error) {
	pem, err := certificates(bundle)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	nodes := base
	if len(pem) > 0 {
		nodes = append(nodes[:len(nodes):len(nodes)], node{strings.TrimPrefix(certificatesPath, "/"), 0o644, 0, string(pem)})
	}
	for _, n := range nodes {
		if err := writeNode(w, n); err != nil {
			return nil, fmt.Errorf("base layer: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("base layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
}

func writeNode(w *tar.Writer, n node) error {
	h := &tar.Header{Name: n.name, Mode: n.mode, Uid: n.owner, Gid: n.owner, Size: int64(len(n.body)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
	if strings.HasSuffix(n.name, "/") {
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.WriteString(w, n.body)
	return err
}

// programLayer streams the program from its file each time it is read: it is never whole in memory.
func programLayer(name, bin string) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		f, err := os.Open(bin)
		if err != nil {
			return nil, err
		}
		st, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		r, w := io.Pipe()
		go func() {
			defer f.Close()
			w.CloseWithError(writeProgram(w, strings.TrimPrefix(name, "/"), f, st.Size()))
		}()
		return r, nil
	})
}

func writeProgram(to io.Writer, name string, f io.Reader, size int64) error {
	w := tar.NewWriter(to)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: size, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	if _, err := io.Copy(w, f); err != nil {
		return err
	}
	return w.Close()
}
