// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package ociartifact writes files as an OCI artifact: a manifest that names
// each file with its kind and hash, in an image layout, in a tar archive. Any
// registry can hold it, and any tool that copies layouts can bring it there.
//
// The layout has one manifest, which the index tags. Equal input gives equal
// bytes; there is no time in it.
package ociartifact

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// What the specification calls things.
const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	titleKey     = "org.opencontainers.image.title"
	refKey       = "org.opencontainers.image.ref.name"
)

// Blob is a file with its kind.
type Blob struct {
	Name      string // what the file is called where it is taken out
	MediaType string
	Data      []byte
}

// Artifact is what is written.
type Artifact struct {
	Type        string // what all of it is
	Tag         string
	Annotations map[string]string
	Config      Blob // describes the rest; has no name
	Layers      []Blob
	Time        time.Time // of the files in the archive
}

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int               `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

func (b Blob) describe() descriptor {
	sum := sha256.Sum256(b.Data)
	d := descriptor{MediaType: b.MediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: len(b.Data)}
	if b.Name != "" {
		d.Annotations = map[string]string{titleKey: b.Name}
	}
	return d
}

// Write writes the archive.
func Write(w io.Writer, a Artifact) error {
	m := manifest{SchemaVersion: 2, MediaType: manifestType, ArtifactType: a.Type, Config: a.Config.describe(), Annotations: a.Annotations}
	for _, l := range a.Layers {
		m.Layers = append(m.Layers, l.describe())
	}
	described, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("describe the artifact: %w", err)
	}
	root := Blob{MediaType: manifestType, Data: described}
	entry := root.describe()
	entry.ArtifactType, entry.Annotations = a.Type, map[string]string{refKey: a.Tag}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: indexType, Manifests: []descriptor{entry}})
	if err != nil {
		return fmt.Errorf("describe the artifact: %w", err)
	}
	t := archive{tar.NewWriter(w), a.Time, map[string]bool{}}
	if err := t.layout(top, append([]Blob{root, a.Config}, a.Layers...)); err != nil {
		return fmt.Errorf("write the artifact: %w", err)
	}
	return nil
}

// archive is the image layout being written.
type archive struct {
	*tar.Writer
	time time.Time
	seen map[string]bool // a blob that is there twice is written once
}

func (t archive) layout(top []byte, blobs []Blob) error {
	if err := t.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := t.file("index.json", top); err != nil {
		return err
	}
	for _, b := range blobs {
		if err := t.file("blobs/sha256/"+b.describe().Digest[len("sha256:"):], b.Data); err != nil {
			return err
		}
	}
	return t.Close()
}

func (t archive) file(name string, data []byte) error {
	if t.seen[name] {
		return nil
	}
	t.seen[name] = true
	h := &tar.Header{Name: name, Size: int64(len(data)), Mode: 0o644, ModTime: t.time, Format: tar.FormatUSTAR}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}
