// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"wherry.example/wherry/internal/timezone"
)

// Bounds of updates.
const (
	maxSpread      = 7 * 24 * time.Hour
	minWindow      = 10 * time.Minute
	maxWindow      = 24 * time.Hour
	minTrial       = 30 * time.Second
	maxTrial       = 30 * time.Minute
	maxTrialChecks = 16
	maxArguments   = 64
	maxArgBytes    = 4 << 10
	maxURLBytes    = 2 << 10
)

func validateUpdates(c check, u Updates) {
	if u.URL != "" {
		validateURL(c.at("url"), u.URL)
	}
	validateUpdatesCA(c.at("ca"), u)
	switch u.Channel {
	case "", "alpha", "beta", "stable":
	default:
		c.at("channel").errorf("%s is not a channel: alpha, beta or stable", shorten(u.Channel))
	}
	if u.Pin != "" {
		validatePin(c.at("pin"), u)
	}
	switch u.Mode {
	case "", UpdatesAutomatic, UpdatesDownloadOnly, UpdatesManual:
	default:
		c.at("mode").errorf("%s is not a mode: automatic, download-only or manual", shorten(u.Mode))
	}
	validateWindow(c.at("window"), u.Window)
	validateSpan(c.at("spread"), u.Spread, 0, maxSpread)
	if u.Report && u.URL == "" {
		c.at("report").warnf("there is no url to report to")
	}
	validateTrial(c.at("trial"), u.Trial)
}

// validateURL wants an address that can be extended by a path: credentials
// would be shown with the configuration, and a query has nowhere to go.
func validateURL(c check, s string) *url.URL {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxURLBytes:
		c.errorf("is longer than %d bytes", maxURLBytes)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || !isHostPort(u.Host) || u.Opaque != "":
		c.errorf("%s is not an http or https address", shorten(s))
	case u.User != nil:
		c.errorf("cannot hold a user name or password")
	case u.Fragment != "":
		c.errorf("cannot hold a fragment (#)")
	default:
		return u
	}
	return nil
}

func validateUpdatesCA(c check, u Updates) {
	if u.CA == "" {
		return
	}
	n, err := countCertificates([]byte(u.CA))
	switch {
	case err != nil:
		c.errorf("%v", err)
	case n == 0:
		c.errorf("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")
	case strings.HasPrefix(u.URL, "http:"):
		c.warnf("is not used with plain HTTP")
	}
}

// validatePin reads versions as package release does, which would bring all of TUF
// into programs that only read configurations. TestPinIsAVersion holds the two together.
func validatePin(c check, u Updates) {
	if u.Channel != "" {
		c.errorf("excludes channel: the machine follows one of them")
	}
	parts := strings.Split(u.Pin, ".")
	bad := slices.ContainsFunc(parts, func(p string) bool {
		n, err := strconv.Atoi(p)
		return err != nil || n < 0 || n > 999999 || strconv.Itoa(n) != p
	})
	if bad || len(parts) != 3 {
		c.errorf("%s is not a version, such as 12.0.0", shorten(u.Pin))
	}
}

func validateSpan(c check, d, least, most time.Duration) {
	switch {
	case d < 0:
		c.errorf("%s is negative", d)
	case d < least:
		c.errorf("%s is less than %s", d, least)
	case d > most:
		c.errorf("%s is longer than %s", d, most)
	}
}

func validateWindow(c check, w Window) {
	if w.IsZero() {
		return
	}
	seen := map[time.Weekday]bool{}
	for i, d := range w.Days {
		day, ok := parseDay(d)
		switch {
		case !ok:
			c.at("days").index(i).errorf("%s is not a day: mon, tue, wed, thu, fri, sat or sun", shorten(d))
		case seen[day]:
			c.at("days").index(i).errorf("%s is given twice", d)
		}
		seen[day] = ok
	}
	if _, ok := parseTimeOfDay(w.Start); !ok {
		c.at("start").errorf("%s is not a time of day: write it like 02:00", shorten(w.Start))
	}
	validateSpan(c.at("length"), w.Length, minWindow, maxWindow)
	if _, err := timezone.Load(w.TimeZone); err != nil {
		c.at("timeZone").errorf("%v", err)
	}
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseDay reads a day of Window.Days.
func parseDay(s string) (time.Weekday, bool) {
	i := slices.Index(weekdays, s)
	return time.Weekday(max(i, 0)), i >= 0
}

// parseTimeOfDay reads Window.Start as the time since midnight.
func parseTimeOfDay(s string) (time.Duration, bool) {
	t, err := time.Parse("15:04", s)
	if err != nil || t.Format("15:04") != s {
		return 0, false
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, true
}

func validateTrial(c check, t Trial) {
	if t.Limit != 0 {
		validateSpan(c.at("limit"), t.Limit, minTrial, maxTrial)
	}
	if len(t.Checks) > maxTrialChecks {
		c.at("checks").errorf("%d are more than %d", len(t.Checks), maxTrialChecks)
		return
	}
	seen := map[string]bool{}
	for i, one := range t.Checks {
		at := c.at("checks").index(i)
		switch {
		case one.Name == "":
			at.at("name").errorf("is missing")
		case len(one.Name) > 64 || !containerName.MatchString(one.Name):
			at.at("name").errorf("%s is not a name: at most 64 letters, digits, '_', '.' and '-', beginning with a letter or digit", shorten(one.Name))
		case seen[one.Name]:
			at.at("name").errorf("%s is the name of another check", shorten(one.Name))
		}
		seen[one.Name] = true
		validateTrialCheck(at, one)
	}
}

func validateTrialCheck(c check, t TrialCheck) {
	kinds := 0
	if t.HTTP != (TrialHTTP{}) {
		kinds++
		validateTrialHTTP(c.at("http"), t.HTTP)
	}
	if t.TCP != "" {
		kinds++
		validateTrialTCP(c.at("tcp"), t.TCP)
	}
	if t.Exec.Container != "" || len(t.Exec.Command) > 0 {
		kinds++
		validateTrialExec(c.at("exec"), t.Exec)
	}
	if kinds != 1 {
		c.errorf("wants exactly one of http, tcp and exec")
	}
}

func validateTrialHTTP(c check, h TrialHTTP) {
	validateURL(c.at("url"), h.URL)
	if h.Status != 0 && (h.Status < 100 || h.Status > 599) {
		c.at("status").errorf("%d is not an HTTP status", h.Status)
	}
}

func validateTrialTCP(c check, s string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || !isHostPort(s) || strings.HasSuffix(s, "]") {
		c.errorf("%s is not host:port", shorten(s))
	}
}

func validateTrialExec(c check, e TrialExec) {
	if len(e.Container) > 128 || !containerName.MatchString(e.Container) {
		c.at("container").errorf("%s is not the name of a container", shorten(e.Container))
	}
	size := 0
	for _, a := range e.Command {
		size += len(a)
	}
	switch at := c.at("command"); {
	case len(e.Command) == 0 || e.Command[0] == "":
		at.errorf("is missing")
	case len(e.Command) > maxArguments || size > maxArgBytes:
		at.errorf("is longer than %d arguments and %d bytes", maxArguments, maxArgBytes)
	}
	validateArguments(c.at("command"), e.Command)
}
