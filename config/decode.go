// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills a Machine from YAML nodes. Unlike the YAML library it stops at
// nothing: whatever is wrong becomes a problem and the rest is still read.
type decoder struct {
	report  Report
	lines   map[string]int  // path → line
	failed  map[string]bool // paths that have a problem already
	decoded bool            // the YAML could be read
}

// problem adds what validation finds, unless decoding found fault there already.
func (d *decoder) problem(p Problem) {
	if !d.failed[p.Path] {
		d.report.add(p)
	}
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	if d.failed == nil {
		d.failed = map[string]bool{}
	}
	d.failed[path] = true
	d.report.errorf(path, n.Line, format, args...)
}

var durationType = reflect.TypeFor[time.Duration]()

func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	if len(d.lines) < maxSeparators {
		d.lines[path] = n.Line
	}
	if !d.plain(n, path) || n.ShortTag() == "!!null" {
		return
	}
	if depth > maxDepth {
		d.fail(n, path, "nested too deeply")
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.fields(n, v, path, depth)
	case reflect.Slice:
		d.list(n, v, path, depth)
	case reflect.Map:
		d.stringMap(n, v, path)
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), path, depth)
		if !d.failed[path] {
			v.Set(p)
		}
	default:
		d.scalar(n, v, path)
	}
}

// plain refuses the parts of YAML that turn small documents into large or surprising ones.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n, path, "aliases (*%s) are not supported: write the value out", n.Value)
	case n.Anchor != "":
		d.fail(n, path, "anchors (&%s) are not supported: write the value out", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		d.fail(n, path, "tags (%s) are not supported", n.Tag)
	default:
		return true
	}
	return false
}

func (d *decoder) fields(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "expected fields, found %s", describe(n))
		return
	}
	known := fieldsOf(v.Type())
	d.entries(n, path, func(key string, keyNode, value *yaml.Node) {
		i, ok := known.index[key]
		if !ok {
			d.fail(keyNode, join(path, key), "unknown field %s%s", shorten(key), didYouMean(key, known.names))
			return
		}
		d.value(value, v.Field(i), join(path, key), depth+1)
	})
}

// entries calls f for every key of a mapping, once for each.
func (d *decoder) entries(n *yaml.Node, path string, f func(key string, keyNode, value *yaml.Node)) {
	if len(n.Content)/2 > maxItems {
		d.fail(n, path, "%d entries are more than %d", len(n.Content)/2, maxItems)
		return
	}
	first := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		if k.Kind != yaml.ScalarNode || k.Anchor != "" {
			d.fail(k, path, "a field name must be plain text")
			continue
		}
		if line, ok := first[k.Value]; ok {
			d.fail(k, join(path, k.Value), "%s is given twice, first in line %d", shorten(k.Value), line)
			continue
		}
		first[k.Value] = k.Line
		f(k.Value, k, n.Content[i+1])
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "expected a list, found %s", describe(n))
		return
	}
	if len(n.Content) > maxItems {
		d.fail(n, path, "a list of %d is longer than %d", len(n.Content), maxItems)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.ShortTag() == "!!null" && item.Kind == yaml.ScalarNode {
			d.fail(item, at, "is empty")
			continue
		}
		d.value(item, v.Index(i), at, depth+1)
	}
}

// stringMap reads names with values. The values may be numbers: a sysctl's
// value is text for the kernel, and people write 1.
func (d *decoder) stringMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "expected names with values, found %s", describe(n))
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.entries(n, path, func(key string, _, value *yaml.Node) {
		at := mapPath(path, key)
		d.lines[at] = value.Line
		if !d.plain(value, at) {
			return
		}
		if tag := value.ShortTag(); value.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!int" {
			d.fail(value, at, "expected text or a whole number, found %s", describe(value))
			return
		}
		v.SetMapIndex(reflect.ValueOf(key), reflect.ValueOf(value.Value))
	})
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "expected %s, found %s", wanted(v), describe(n))
		return
	}
	tag := n.ShortTag()
	switch {
	case v.Type() == durationType:
		dur, err := time.ParseDuration(n.Value)
		if err != nil || tag != "!!str" {
			d.fail(n, path, "%s is not a duration: write it like 30s or 1m30s", shorten(n.Value))
			return
		}
		v.SetInt(int64(dur))
	case v.Kind() == reflect.String && tag == "!!str":
		v.SetString(n.Value)
	case v.Kind() == reflect.String && path == "version":
		d.fail(n, path, "expected %q, found %s", Version, describe(n))
	case v.Kind() == reflect.String:
		d.fail(n, path, "expected text, found %s: put it in quotes if it is meant as text", describe(n))
	case v.Kind() == reflect.Bool && tag == "!!bool":
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case v.Kind() == reflect.Int && tag == "!!int":
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil || i > math.MaxInt32 || i < math.MinInt32 {
			d.fail(n, path, "%s is not a decimal number of at most 32 bits", shorten(n.Value))
			return
		}
		v.SetInt(i)
	default:
		d.fail(n, path, "expected %s, found %s", wanted(v), describe(n))
	}
}

func wanted(v reflect.Value) string {
	switch {
	case v.Type() == durationType:
		return "a duration like 30s"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.Kind() == reflect.Int:
		return "a whole number"
	}
	return "text"
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!bool":
		return "the truth value " + shorten(n.Value)
	case "!!int", "!!float":
		return "the number " + shorten(n.Value)
	case "!!timestamp":
		return "the date " + shorten(n.Value)
	case "!!null":
		return "nothing"
	}
	return "the text " + shorten(n.Value)
}

// join names a field below path, whose name is the document's and can be anything.
func join(path, field string) string {
	const most = 64
	if len(field) > most {
		field = strings.ToValidUTF8(field[:most], "") + "…"
	}
	if path == "" {
		return field
	}
	return path + "." + field
}

func mapPath(path, key string) string { return path + "[" + shorten(key) + "]" }
