// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxProblems bounds a report: a hostile document gets a short answer.
const maxProblems = 100

// Problem is one thing that is wrong with a document.
type Problem struct {
	// Path is where: "network.interfaces[0].addresses[1]". Empty: the document.
	Path string
	// Line counts from 1; 0 when there is no line to name.
	Line int
	// Message says what is wrong and what would be right.
	Message string
	// Warning marks a problem that does not keep the document from being used.
	Warning bool
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	if p.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Report is everything that is wrong with a document, ordered by line.
type Report struct {
	Problems []Problem
}

// OK says that the document may be used: there are no errors, perhaps warnings.
func (r Report) OK() bool { return len(r.Errors()) == 0 }

// Errors returns the problems that forbid using the document.
func (r Report) Errors() []Problem { return r.only(false) }

// Warnings returns the problems that do not.
func (r Report) Warnings() []Problem { return r.only(true) }

func (r Report) only(warning bool) []Problem {
	var out []Problem
	for _, p := range r.Problems {
		if p.Warning == warning {
			out = append(out, p)
		}
	}
	return out
}

// Err returns the errors as one error, a line each, and nil when there are none.
func (r Report) Err() error {
	var errs []error
	for _, p := range r.Errors() {
		errs = append(errs, errors.New(p.String()))
	}
	return errors.Join(errs...)
}

func (r Report) String() string {
	lines := make([]string, len(r.Problems))
	for i, p := range r.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (r *Report) errorf(path string, line int, format string, args ...any) {
	r.add(Problem{Path: path, Line: line, Message: fmt.Sprintf(format, args...)})
}

func (r *Report) warnf(path string, line int, format string, args ...any) {
	r.add(Problem{Path: path, Line: line, Message: fmt.Sprintf(format, args...), Warning: true})
}

// add keeps maxProblems and always room for the first error: a flood of
// warnings must not hide that the document is unusable.
func (r *Report) add(p Problem) {
	switch {
	case len(r.Problems) < maxProblems:
		r.Problems = append(r.Problems, p)
	case !p.Warning && r.OK():
		r.Problems[maxProblems-1] = p
	}
}

// sort orders by line and sets lines from where the decoder saw each path.
func (r *Report) sort(lines map[string]int) {
	for i := range r.Problems {
		if p := &r.Problems[i]; p.Line == 0 {
			p.Line = nearestLine(lines, p.Path)
		}
	}
	slices.SortStableFunc(r.Problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
}

// nearestLine is the line of the path or of the nearest thing around it.
func nearestLine(lines map[string]int, path string) int {
	for path != "" {
		if line, ok := lines[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// shorten quotes a value of the document for a message.
func shorten(s string) string {
	const most = 60
	if len(s) > most {
		return fmt.Sprintf("%q…", strings.ToValidUTF8(s[:most], ""))
	}
	return fmt.Sprintf("%q", s)
}
