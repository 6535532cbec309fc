// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/docker/go-units"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// protoJSON writes messages with the zero values that a script would miss.
var protoJSON = protojson.MarshalOptions{EmitDefaultValues: true}

func raw(m proto.Message) (json.RawMessage, error) {
	data, err := protoJSON.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write JSON: %w", err)
	}
	return data, nil
}

// printJSON writes any value, indented.
func (c *CLI) printJSON(v any) error {
	e := json.NewEncoder(c.Out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// printMessage writes a message as JSON.
func (c *CLI) printMessage(m proto.Message) error {
	data, err := raw(m)
	if err != nil {
		return err
	}
	return c.printJSON(data)
}

// printLine writes a message as one line of JSON, for streams.
func (c *CLI) printLine(m proto.Message) error {
	data, err := raw(m)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, data); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	line.WriteByte('\n')
	return write(c.Out, line.Bytes())
}

// printList writes messages as a JSON array.
func printList[M proto.Message](c *CLI, list []M) error {
	all := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		data, err := raw(m)
		if err != nil {
			return err
		}
		all = append(all, data)
	}
	return c.printJSON(all)
}

// table writes rows under a heading, the columns aligned.
func table(w io.Writer, heading string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, heading)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// parseTemplate reads a Go template as docker's --format takes it.
func parseTemplate(text string) (*template.Template, error) {
	t, err := template.New("format").Funcs(template.FuncMap{
		"json":  func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"join":  strings.Join,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
	}).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return t, nil
}

// printTemplate writes one line for each value.
func printTemplate[T any](c *CLI, text string, values []T) error {
	t, err := parseTemplate(text)
	if err != nil {
		return err
	}
	for _, v := range values {
		if err := t.Execute(c.Out, v); err != nil {
			return fmt.Errorf("--format: %w (the names are the API's: see them with -o json)", err)
		}
		fmt.Fprintln(c.Out)
	}
	return nil
}

// asMap is a message as templates see it: by its JSON names, all of which are
// there. What has no value yet is nil.
func asMap(m proto.Message) (map[string]any, error) {
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return out, nil
}

// shortID is an id as lists show it.
func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

const unknownAge = "N/A"

// age is how long ago something was.
func (c *CLI) age(t *timestamppb.Timestamp) string {
	if t == nil || t.AsTime().Unix() <= 0 {
		return unknownAge
	}
	return units.HumanDuration(c.now().Sub(t.AsTime())) + " ago"
}

// ago is age within a sentence.
func (c *CLI) ago(t *timestamppb.Timestamp) string {
	text := c.age(t)
	if text == unknownAge {
		return text
	}
	return strings.ToLower(text[:1]) + text[1:]
}

func size(bytes uint64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }

func binarySize(bytes uint64) string {
	return units.CustomSize("%.4g%s", float64(bytes), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"})
}

// parseTime reads a time as docker's --since does: a duration back from now,
// a Unix time, or a date with or without time and zone.
func (c *CLI) parseTime(flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return timestamppb.New(c.now().Add(-d)), nil
	}
	if t, err := parseDate(text); err == nil {
		return timestamppb.New(t), nil
	}
	var sec, nsec int64
	var frac string
	whole, rest, dotted := strings.Cut(text, ".")
	if _, err := fmt.Sscanf(whole+"\n", "%d\n", &sec); err != nil || fmt.Sprint(sec) != whole {
		return nil, fmt.Errorf("%s %q: want a duration (10m), a Unix time or a date (2026-01-02T15:04:05)", flag, text)
	}
	if dotted {
		frac = (rest + "000000000")[:9]
		if _, err := fmt.Sscanf(frac, "%09d", &nsec); err != nil {
			return nil, fmt.Errorf("%s %q: the fraction is not a number", flag, text)
		}
	}
	return timestamppb.New(time.Unix(sec, nsec)), nil
}

// parseDate reads a date with or without time and zone; without one it is the user's.
func parseDate(text string) (t time.Time, err error) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err = time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return t, err
}
