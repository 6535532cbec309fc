// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxSeparators bounds what the YAML parser may build from a document of
	// MaxBytes: every node needs a separator before or after it.
	maxSeparators = 64 << 10
	// maxItems bounds every list and map of a document.
	maxItems = 4096
	// maxDepth is far more than the types have.
	maxDepth = 16
)

// Default is the machine of whoever gives no document: DHCP on every link, and
// nobody can log in.
func Default() Machine { return Machine{Version: Version} }

// Parse reads a document. When the report has errors, the machine is the zero
// value: half a configuration is never returned.
func Parse(doc []byte) (Machine, Report) {
	var m Machine
	d := decoder{lines: map[string]int{}}
	if root := d.document(doc); root != nil {
		d.value(root, reflect.ValueOf(&m).Elem(), "", 0)
	}
	// Values that were not read are zero, and zero is valid, so validation
	// adds what else is wrong without repeating what is known.
	if d.decoded {
		if m.Version == "" && !d.failed["version"] {
			d.report.warnf("version", 1, "there is no version: %q is assumed", Version)
			m.Version = Version
		}
		validate(&m, d.problem)
	}
	d.report.sort(d.lines)
	if !d.report.OK() {
		return Machine{}, d.report
	}
	return m, d.report
}

// Validate reports what is wrong with a machine that was not parsed from a document.
func Validate(m Machine) Report {
	var r Report
	validate(&m, func(p Problem) { r.add(p) })
	return r
}

// document returns the one YAML node that holds everything, or nil.
func (d *decoder) document(doc []byte) *yaml.Node {
	switch {
	case len(doc) > MaxBytes:
		d.report.errorf("", 0, "the document has %d bytes, more than %d", len(doc), MaxBytes)
		return nil
	case !utf8.Valid(doc) || bytes.IndexByte(doc, 0) >= 0:
		d.report.errorf("", 0, "the document is not text in UTF-8")
		return nil
	case separators(doc) > maxSeparators:
		d.report.errorf("", 0, "the document has more than %d lines and entries", maxSeparators)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	var root, more yaml.Node
	if err := dec.Decode(&root); errors.Is(err, io.EOF) {
		d.decoded = true
		return nil
	} else if err != nil {
		d.report.errorf("", 0, "the document is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.report.errorf("", more.Line, "there is more than one YAML document: only one is wanted")
		return nil
	}
	d.decoded = true
	if len(root.Content) == 0 {
		return nil
	}
	return root.Content[0]
}

func separators(doc []byte) int {
	n := 0
	for _, c := range doc {
		switch c {
		case '\n', '\r', ',', '[', '{':
			n++
		}
	}
	return n
}
