// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wherry.example/wherry/api/wherryv1"
)

// progressEvery is how often a pull's progress is told at most.
const progressEvery = 200 * time.Millisecond

// progress collects what happens to layers until somebody asks what changed.
// A nil progress swallows everything.
type progress struct {
	mu     sync.Mutex
	status string
	layers map[digest.Digest]*wherryv1.LayerProgress
	order  []digest.Digest
	dirty  map[digest.Digest]bool
	moved  bool // the status changed
}

func newProgress() *progress {
	return &progress{layers: map[digest.Digest]*wherryv1.LayerProgress{}, dirty: map[digest.Digest]bool{}}
}

func (p *progress) setStatus(s string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.moved = s, true
}

// layer sets a layer's status; bytes below zero leave the count alone.
func (p *progress) layer(d ocispec.Descriptor, status string, bytes int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.layers[d.Digest]
	if l == nil {
		l = &wherryv1.LayerProgress{Digest: d.Digest.String(), TotalBytes: uint64(d.Size)}
		p.layers[d.Digest] = l
		p.order = append(p.order, d.Digest)
	}
	if status != "" {
		l.Status = status
	}
	if bytes >= 0 {
		l.Bytes = uint64(bytes)
	}
	p.dirty[d.Digest] = true
}

// take returns what changed since the last call, or nil.
func (p *progress) take() *wherryv1.PullImageResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.moved && len(p.dirty) == 0 {
		return nil
	}
	m := &wherryv1.PullImageResponse{Status: p.status}
	for _, d := range p.order {
		if p.dirty[d] {
			l := p.layers[d]
			m.Layers = append(m.Layers, &wherryv1.LayerProgress{Digest: l.Digest, Status: l.Status, Bytes: l.Bytes, TotalBytes: l.TotalBytes})
		}
	}
	clear(p.dirty)
	p.moved = false
	return m
}
