// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Hidden stands for a secret where a configuration is shown. In a document
// that is applied it means: the secret that the machine has already.
const Hidden = "(hidden)"

// Marshal writes the document that Parse reads as m.
func (m Machine) Marshal() ([]byte, error) {
	if m.Version == "" {
		m.Version = Version
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	if b.Len() > MaxBytes {
		return nil, fmt.Errorf("write configuration: %d bytes are more than %d", b.Len(), MaxBytes)
	}
	return b.Bytes(), nil
}

// Redact returns m with every password replaced by Hidden.
func (m Machine) Redact() Machine {
	m.Registries = slices.Clone(m.Registries)
	for i := range m.Registries {
		if r := &m.Registries[i]; r.Password != "" {
			r.Password = Hidden
		}
	}
	return m
}

// Reveal returns m with every password that is Hidden replaced by the one that
// old has for the same registry and user name, so that a document that was
// shown can be edited and applied. A password that old does not have is an error.
func (m Machine) Reveal(old Machine) (Machine, Report) {
	var report Report
	m.Registries = slices.Clone(m.Registries)
	for i := range m.Registries {
		r := &m.Registries[i]
		if r.Password != Hidden {
			continue
		}
		known := slices.IndexFunc(old.Registries, func(o Registry) bool { return o.Host == r.Host && o.Username == r.Username })
		if known < 0 || old.Registries[known].Password == "" {
			report.errorf(fmt.Sprintf("registries[%d].password", i), 0, "the machine has no password of %s at %s: write it instead of %q", r.Username, r.Host, Hidden)
			continue
		}
		r.Password = old.Registries[known].Password
	}
	return m, report
}

// Change is one difference between two configurations. What is empty was or
// will be absent. Secrets are hidden.
type Change struct {
	Path          string
	Before, After string
}

func (c Change) String() string {
	return fmt.Sprintf("%s: %q → %q", c.Path, c.Before, c.After)
}

// Diff returns what changes from a to b, in the order of the document.
func Diff(a, b Machine) []Change {
	var out []Change
	diff(reflect.ValueOf(a), reflect.ValueOf(b), "", false, func(c Change) { out = append(out, c) })
	return out
}

// diff compares values of one type; an invalid one is absent.
func diff(a, b reflect.Value, path string, hide bool, emit func(Change)) {
	t := a
	if !t.IsValid() {
		t = b
	}
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Type().Field(i)
			name := fieldsOf(t.Type()).names[i]
			diff(fieldOf(a, i), fieldOf(b, i), join(path, name), secret(f), emit)
		}
	case reflect.Slice:
		for i := range max(length(a), length(b)) {
			diff(item(a, i), item(b, i), fmt.Sprintf("%s[%d]", path, i), hide, emit)
		}
	case reflect.Map:
		for _, key := range sortedKeys(a, b) {
			diff(entry(a, key), entry(b, key), mapPath(path, key), hide, emit)
		}
	default:
		before, after := text(a), text(b)
		if before == after {
			return
		}
		if hide {
			before, after = hidden(before), hidden(after)
		}
		emit(Change{Path: path, Before: before, After: after})
	}
}

func hidden(s string) string {
	if s == "" {
		return ""
	}
	return Hidden
}

func fieldOf(v reflect.Value, i int) reflect.Value {
	if !v.IsValid() {
		return reflect.Value{}
	}
	return v.Field(i)
}

func length(v reflect.Value) int {
	if !v.IsValid() {
		return 0
	}
	return v.Len()
}

func item(v reflect.Value, i int) reflect.Value {
	if i >= length(v) {
		return reflect.Value{}
	}
	return v.Index(i)
}

func entry(v reflect.Value, key string) reflect.Value {
	if length(v) == 0 {
		return reflect.Value{}
	}
	return v.MapIndex(reflect.ValueOf(key))
}

func sortedKeys(maps ...reflect.Value) []string {
	var keys []string
	for _, m := range maps {
		if length(m) == 0 {
			continue
		}
		for _, k := range m.MapKeys() {
			keys = append(keys, k.String())
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// text prints a scalar as the document would; zero is absent.
func text(v reflect.Value) string {
	if !v.IsValid() {
		return ""
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		return fmt.Sprint(v.Elem().Interface())
	}
	if v.IsZero() {
		return ""
	}
	return fmt.Sprint(v.Interface())
}
