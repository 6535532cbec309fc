// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Epoch is the day from which versions count: the project's first.
var Epoch = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// Version is DAYS.MINOR.PATCH. DAYS is the day on which this line of releases
// was begun, counted from Epoch; MINOR and PATCH are as in semantic versioning.
type Version struct {
	Days, Minor, Patch int
}

// maxNumber bounds each number of a version: 2,737 years are enough.
const maxNumber = 999999

// DaysOn returns the number of days from Epoch to the day of t, in UTC.
func DaysOn(t time.Time) int { return int(t.UTC().Sub(Epoch).Hours() / 24) }

// ParseVersion reads three numbers without leading zeros.
func ParseVersion(s string) (Version, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(s) > 20 {
		return Version{}, fmt.Errorf("version %.40q: want DAYS.MINOR.PATCH, such as 12.0.0", s)
	}
	var n [3]int
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 || v > maxNumber || strconv.Itoa(v) != p {
			return Version{}, fmt.Errorf("version %q: %q is not a number from 0 to %d without leading zeros", s, p, maxNumber)
		}
		n[i] = v
	}
	return Version{n[0], n[1], n[2]}, nil
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Days, v.Minor, v.Patch) }

// Compare orders versions as semantic versioning does.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Days, w.Days), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Begun is the day on which the version's line was begun.
func (v Version) Begun() time.Time { return Epoch.AddDate(0, 0, v.Days) }

// MarshalText writes the version as people do.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Version) UnmarshalText(b []byte) (err error) {
	*v, err = ParseVersion(string(b))
	return err
}
