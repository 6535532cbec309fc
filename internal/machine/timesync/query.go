// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package timesync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

const (
	answerTimeout = 3 * time.Second
	// maxAsked is how many servers are asked in one round.
	maxAsked = 4
	// rateBar and denyBar are how long a server is left alone that finds us too curious, or does not want us.
	rateBar = 2 * time.Hour
	denyBar = 24 * time.Hour
)

// errBarred is a server's wish not to be asked.
type errBarred struct {
	code string
}

func (e errBarred) Error() string { return "the server does not want to be asked (" + e.code + ")" }

// ask asks up to maxAsked servers at once. It fails when none gives a usable answer.
func (c *Clock) ask(ctx context.Context, servers []string) ([]sample, error) {
	asked := c.allowed(servers)
	if len(asked) == 0 {
		return nil, errors.New("no server wants to be asked")
	}
	samples, errs := make([]sample, len(asked)), make([]error, len(asked))
	var wg sync.WaitGroup
	for i, s := range asked {
		wg.Go(func() { samples[i], errs[i] = c.askOne(ctx, s) })
	}
	wg.Wait()
	var good []sample
	for i, err := range errs {
		var barred errBarred
		if errors.As(err, &barred) {
			c.bar(asked[i], barred.code)
		}
		if err == nil {
			good = append(good, samples[i])
		} else {
			errs[i] = fmt.Errorf("ask %s for the time: %w", asked[i], err)
		}
	}
	if len(good) == 0 {
		return nil, errors.Join(errs...)
	}
	return good, nil
}

// allowed returns the first servers that did not bar us.
func (c *Clock) allowed(servers []string) []string {
	var out []string
	for _, s := range servers {
		if until, ok := c.barred[s]; ok && time.Now().Before(until) {
			continue
		}
		if out = append(out, s); len(out) == maxAsked {
			break
		}
	}
	return out
}

// bar honours a kiss of death: RATE means less often, the others mean not at all.
func (c *Clock) bar(server, code string) {
	c.o.Log.Warn("a time server does not want to be asked", "server", server, "code", code)
	until := time.Now().Add(denyBar)
	if code == "RATE" {
		until = time.Now().Add(rateBar)
	}
	c.barred[server] = until
}

func (c *Clock) askOne(ctx context.Context, server string) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	dialer := net.Dialer{}
	options := ntp.QueryOptions{
		Timeout: answerTimeout,
		Dialer:  func(_, remote string) (net.Conn, error) { return dialer.DialContext(ctx, "udp", remote) },
	}
	if _, own := c.o.Kernel.(systemClock); !own {
		options.GetSystemTime = c.o.Kernel.Now // without it, the kernel's own timestamps of packets are used
	}
	r, err := ntp.QueryWithOptions(server, options)
	if err != nil {
		return sample{}, err
	}
	if r.Stratum == 0 && r.KissCode != "" {
		return sample{}, errBarred{r.KissCode}
	}
	if err := r.Validate(); err != nil {
		return sample{}, err
	}
	if !credible(r.Time, c.earliest) {
		return sample{}, fmt.Errorf("its time %s cannot be", r.Time.UTC().Format(time.RFC3339))
	}
	return sample{Server: server, Offset: r.ClockOffset, Distance: r.RootDistance}, nil
}
