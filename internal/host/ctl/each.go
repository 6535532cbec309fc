// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"sync"
)

// atOnce is how many objects a verb with several works on at the same time.
const atOnce = 16

// each does something to every object, several at once, and prints a line for
// each in the order in which they were named. All failures are written; the
// result then only says that there were some.
func (c *CLI) each(ctx context.Context, names []string, do func(context.Context, string) (line string, err error)) error {
	type result struct {
		line string
		err  error
	}
	results := make([]chan result, len(names))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, name := range names {
		results[i] = make(chan result, 1)
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			line, err := do(ctx, name)
			results[i] <- result{line, err}
		})
	}
	failed := 0
	var last error
	for i := range names {
		r := <-results[i]
		if r.err != nil {
			failed++
			last = r.err
			if len(names) > 1 {
				c.notef("%s: %v", names[i], r.err)
			}
			continue
		}
		if r.line != "" {
			fmt.Fprintln(c.Out, r.line)
		}
	}
	switch {
	case failed == 0:
		return nil
	case len(names) == 1 || ctx.Err() != nil:
		return last
	}
	return errReported
}
