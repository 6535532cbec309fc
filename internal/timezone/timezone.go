// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package timezone knows the world's time zones without a database of 400 KB in
// the image: for each name it keeps the rule by which the zone's clock goes from
// now on, in the form of POSIX (TZ), 10 KB in all. So it is right about today
// and the coming years, and not about the past: it is for things that are
// to happen, such as maintenance windows. Zones whose future is a list of dates and no
// rule (Morocco, Palestine: around Ramadan) are an hour off on some days of the year.
//
// The table zones.txt is made from the database that Go comes with; a test
// compares the two.
package timezone

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"time"
)

//go:generate go test -run TestTable -update .

//go:embed zones.txt
var table string

// rules returns the rule of each zone, by its name.
var rules = sync.OnceValue(func() map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(table) {
		rule, names, _ := strings.Cut(strings.TrimSpace(line), " ")
		for name := range strings.FieldsSeq(names) {
			all[name] = rule
		}
	}
	return all
})

// Load returns the zone of a name such as Europe/Berlin; UTC for no name.
func Load(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	rule, ok := rules()[name]
	if !ok {
		return nil, fmt.Errorf("time zone %.40q is not known: want a name such as Europe/Berlin or UTC", name)
	}
	return time.LoadLocationFromTZData(name, ruleFile(rule))
}

// ruleFile is a time zone file (RFC 9636, version 2) without past: one type of local time that nobody gets to
// see, and the rule.
func ruleFile(rule string) []byte {
	header := func(version byte) []byte {
		h := make([]byte, 44)
		copy(h, "TZif")
		h[4] = version
		h[39], h[43] = 1, 4 // one type, four letters of names
		return h
	}
	block := append(make([]byte, 6), "UTC\x00"...) // offset 0, no summer time, name at 0
	var b []byte
	for range 2 { // 32 bits for old readers, and again with 64
		b = append(append(b, header('2')...), block...)
	}
	return append(append(append(b, '\n'), rule...), '\n')
}
