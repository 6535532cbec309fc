// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/timezone"
)

// Window is a time of the week at which the machine may reboot by itself.
type Window struct {
	days         [7]bool // those on which it begins, Sunday first
	hour, minute int
	length       time.Duration
	zone         *time.Location
	text         string
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func newWindow(c config.Window) (*Window, error) {
	w := &Window{length: c.Length}
	start, err := time.Parse("15:04", c.Start)
	if err != nil && c.Start != "" {
		return nil, fmt.Errorf("window: start %.20q: want a time such as 02:00", c.Start)
	}
	w.hour, w.minute = start.Hour(), start.Minute()
	if w.length <= 0 {
		w.length = 24 * time.Hour
	}
	if w.zone, err = timezone.Load(c.TimeZone); err != nil {
		return nil, fmt.Errorf("window: %w", err)
	}
	for _, d := range c.Days {
		i := slices.Index(weekdays, d)
		if i < 0 {
			return nil, fmt.Errorf("window: day %.20q: want mon, tue, wed, thu, fri, sat or sun", d)
		}
		w.days[i] = true
	}
	days := strings.Join(c.Days, " ")
	if len(c.Days) == 0 {
		w.days, days = [7]bool{true, true, true, true, true, true, true}, "every day"
	}
	w.text = fmt.Sprintf("%s %02d:%02d for %s, %s", days, w.hour, w.minute, brief(w.length), w.zone)
	return w, nil
}

// brief writes 3h and not 3h0m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// around returns the window that t is in, or else the next.
func (w *Window) around(t time.Time) (start, end time.Time) {
	local := t.In(w.zone)
	for i := -2; i <= 8; i++ { // a window of 24 hours may have begun yesterday
		day := time.Date(local.Year(), local.Month(), local.Day()+i, 0, 0, 0, 0, time.UTC)
		if !w.days[day.Weekday()] {
			continue
		}
		start = civil(day.Add(time.Duration(w.hour)*time.Hour+time.Duration(w.minute)*time.Minute), w.zone)
		if end = start.Add(w.length); t.Before(end) {
			return start, end
		}
	}
	return start, end // every week has a day: not reached
}

// civil is the moment at which the clocks of a zone show a time (given as if
// it were UTC). Of two, when clocks are set back, it is the first; when they are set
// forward and never show it, it is the moment of the change.
func civil(shown time.Time, zone *time.Location) time.Time {
	const around = 26 * time.Hour
	_, before := shown.Add(-around).In(zone).Zone()
	_, after := shown.Add(around).In(zone).Zone()
	first := shown.Add(-time.Duration(before) * time.Second)
	if _, offset := first.In(zone).Zone(); offset == before {
		return first
	}
	if second := shown.Add(-time.Duration(after) * time.Second); same(second.In(zone), shown) {
		return second
	}
	change, _ := first.In(zone).ZoneBounds()
	return change
}

func same(local, shown time.Time) bool {
	return local.Hour() == shown.Hour() && local.Minute() == shown.Minute() && local.Day() == shown.Day()
}
