// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package timesync

import (
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the machine's clocks.
type Kernel interface {
	Now() time.Time
	// Step adds to the clock at once.
	Step(by time.Duration) error
	// Slew lets the kernel work an offset of at most half a second off, and
	// learn the clock's drift from it. poll is when the next one is expected.
	Slew(by, poll time.Duration) error
	// SetHardware sets the clock that runs while the machine does not.
	SetHardware(t time.Time) error
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

// Step shifts the clock by an offset instead of setting it, so that no time is
// lost between reading and setting.
func (systemClock) Step(by time.Duration) error {
	seconds, rest := int64(by/time.Second), by%time.Second
	if rest < 0 {
		seconds, rest = seconds-1, rest+time.Second
	}
	t := unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO | unix.ADJ_STATUS | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR, Status: unix.STA_PLL}
	t.Time.Sec, t.Time.Usec = seconds, int64(rest) // nanoseconds, by ADJ_NANO
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("step the clock by %s: %w", by, err)
	}
	return nil
}

func (systemClock) Slew(by, poll time.Duration) error {
	t := unix.Timex{
		Modes:  unix.ADJ_OFFSET | unix.ADJ_NANO | unix.ADJ_STATUS | unix.ADJ_TIMECONST | unix.ADJ_MAXERROR | unix.ADJ_ESTERROR,
		Status: unix.STA_PLL, Offset: int64(by), Constant: timeConstant(poll),
	}
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("slew the clock by %s: %w", by, err)
	}
	return nil
}

// timeConstant is the kernel's measure for how fast to follow: log2 of the
// poll interval in units of 16 s.
func timeConstant(poll time.Duration) int64 {
	return int64(max(bits.Len64(uint64(poll/time.Second))-5, 0))
}

func (systemClock) SetHardware(now time.Time) error {
	f, err := os.OpenFile("/dev/rtc0", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a machine without one
	}
	if err != nil {
		return fmt.Errorf("set the hardware clock: %w", err)
	}
	defer f.Close()
	u := now.UTC()
	value := unix.RTCTime{
		Sec: int32(u.Second()), Min: int32(u.Minute()), Hour: int32(u.Hour()), Mday: int32(u.Day()),
		Mon: int32(u.Month()) - 1, Year: int32(u.Year()) - 1900, Wday: int32(u.Weekday()), Yday: int32(u.YearDay()) - 1,
	}
	if err := unix.IoctlSetRTCTime(int(f.Fd()), &value); err != nil {
		return fmt.Errorf("set the hardware clock: %w", err)
	}
	return nil
}

// lastKnown returns the time of the file that keepKnown wrote.
func lastKnown(file string) (time.Time, bool) {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// keepKnown gives the file, which is empty, a time.
func keepKnown(file string, now time.Time) error {
	err := os.Chtimes(file, now, now)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Chtimes(file, now, now))
}
