// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the generated files")

const (
	schemaFile    = "schema.json"
	referenceFile = "../docs/reference/config.md"
)

// TestGeneratedFiles compares the schema and the reference with the types.
func TestGeneratedFiles(t *testing.T) {
	comments := readComments(t)
	schema, err := json.MarshalIndent(schemaOf(reflect.TypeFor[Machine](), comments), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string][]byte{
		schemaFile:    append(schema, '\n'),
		referenceFile: manualPage(comments),
	} {
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the types say: run go generate ./config (%v)", file, err)
		}
	}
}

// readComments maps "Type" and "Type.Field" to the comments of machine.go.
func readComments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "machine.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.TYPE {
			continue
		}
		spec := decl.Specs[0].(*ast.TypeSpec)
		out[spec.Name.Name] = oneLine(decl.Doc.Text())
		if st, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range st.Fields.List {
				for _, name := range f.Names {
					out[spec.Name.Name+"."+name.Name] = oneLine(f.Doc.Text())
				}
			}
		}
	}
	return out
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

type object = map[string]any

// schemaOf follows JSON Schema, draft 2020-12.
func schemaOf(t reflect.Type, comments map[string]string) object {
	s := typeSchema(t, comments)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Wherry machine configuration, version " + Version
	s["properties"].(object)["version"] = object{"const": Version, "description": comments["Machine.Version"]}
	return s
}

func typeSchema(t reflect.Type, comments map[string]string) object {
	switch {
	case t == durationType:
		return object{"type": "string", "pattern": `^([0-9.]+(ns|us|ms|s|m|h))+$`}
	case t == reflect.TypeFor[Role]():
		return object{"enum": []Role{RoleReader, RoleOperator, RoleAdmin}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeSchema(t.Elem(), comments)
	case reflect.Slice:
		return object{"type": "array", "items": typeSchema(t.Elem(), comments), "maxItems": maxItems}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": object{"type": []string{"string", "integer"}}, "maxProperties": maxItems}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int:
		return object{"type": "integer"}
	case reflect.Struct:
		return structSchema(t, comments)
	}
	return object{"type": "string"}
}

func structSchema(t reflect.Type, comments map[string]string) object {
	properties := object{}
	var required []string
	for i := range t.NumField() {
		f := t.Field(i)
		p := typeSchema(f.Type, comments)
		if doc := comments[t.Name()+"."+f.Name]; doc != "" {
			p["description"] = doc
		}
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		properties[name] = p
		if options == "" {
			required = append(required, name)
		}
	}
	s := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// manualPage is the manual's page: a table for each type, and the full example.
func manualPage(comments map[string]string) []byte {
	var b bytes.Buffer
	b.WriteString("# Machine configuration\n\nGenerated from package config by `go generate ./config`.\n\n" +
		"One YAML (or JSON) document, at most 1 MiB. Unknown fields, wrong types, anchors, aliases and tags are errors; all problems are\n" +
		"reported at once with their path and line, and a document with an error changes nothing. Where it comes from: the document\n" +
		"applied through the API, else QEMU's `-fw_cfg name=opt/wherry/config,file=…`, else the default (DHCP, no keys).\n" +
		"A JSON schema for editors is [schema.json](../../config/schema.json).\n")
	referenceType(&b, reflect.TypeFor[Machine](), "the document", comments)
	example, err := os.ReadFile("testdata/full.yaml")
	if err == nil {
		fmt.Fprintf(&b, "\n## Example\n\n```yaml\n%s```\n", example)
	}
	return b.Bytes()
}

func referenceType(b *bytes.Buffer, t reflect.Type, path string, comments map[string]string) {
	fmt.Fprintf(b, "\n## %s\n\n", path)
	if doc := comments[t.Name()]; doc != "" && path != "the document" {
		fmt.Fprintf(b, "%s\n\n", doc)
	}
	b.WriteString("| field | type | meaning |\n|---|---|---|\n")
	type below struct {
		t    reflect.Type
		path string
	}
	var next []below
	for i := range t.NumField() {
		f := t.Field(i)
		name := fieldsOf(t).names[i]
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", name, typeWord(f.Type), strings.ReplaceAll(comments[t.Name()+"."+f.Name], "|", `\|`))
		at := strings.TrimPrefix(path+"."+name, "the document.")
		switch {
		case f.Type.Kind() == reflect.Struct:
			next = append(next, below{f.Type, at})
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			next = append(next, below{f.Type.Elem(), at + "[]"})
		}
	}
	for _, n := range next {
		referenceType(b, n.t, n.path, comments)
	}
}

func typeWord(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case t == reflect.TypeFor[Role]():
		return "role"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeWord(t.Elem())
	case reflect.Slice:
		return "list of " + typeWord(t.Elem())
	case reflect.Map:
		return "names with values"
	case reflect.Struct:
		return "fields"
	case reflect.Int:
		return "number"
	}
	return strings.Replace(t.Kind().String(), "string", "text", 1)
}
