// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const maxDepth = 16

// checkJSON refuses JSON that metadata never is, before anything else reads it:
// null (go-tuf's decoder dereferences what null left out), deep nesting, a
// name given twice (readers disagree on which counts), and anything after the document.
func checkJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := checkValue(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

func checkValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, nested := t.(json.Delim)
	switch {
	case t == nil:
		return errors.New("null does not belong into metadata")
	case !nested:
		return nil
	case depth >= maxDepth:
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	names := map[string]bool{}
	for d.More() {
		if open == '{' {
			if err := checkName(d, names); err != nil {
				return err
			}
		}
		if err := checkValue(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

func checkName(d *json.Decoder, names map[string]bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	name, ok := t.(string)
	if !ok || names[name] {
		return fmt.Errorf("%.80q is there twice", t)
	}
	names[name] = true
	return nil
}
