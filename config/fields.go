// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strings"
)

// fieldSet is the fields of a struct by their names in the document.
type fieldSet struct {
	names []string
	index map[string]int
}

func fieldsOf(t reflect.Type) fieldSet {
	s := fieldSet{index: map[string]int{}}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		s.names = append(s.names, name)
		s.index[name] = i
	}
	return s
}

// secret says that a field's value is shown to nobody.
func secret(f reflect.StructField) bool { return f.Tag.Get("wherry") == "secret" }

// didYouMean proposes the known name that is nearest to an unknown one.
func didYouMean(got string, known []string) string {
	if len(got) > 64 {
		return ""
	}
	best, distance := "", 3
	for _, k := range known {
		if n := editDistance(letters(got), letters(k)); n < distance && n < len(k)/2+1 {
			best, distance = k, n
		}
	}
	if best == "" {
		return fmt.Sprintf(" (known: %s)", strings.Join(known, ", "))
	}
	return fmt.Sprintf(": did you mean %q?", best)
}

// letters drops what differs between the ways to write a compound name.
func letters(s string) string {
	return strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(s))
}

// editDistance counts the letters to add, remove or change.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
