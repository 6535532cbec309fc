// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import "context"

func (e *Engine) watchHealth(ctx context.Context, c *container, r *run) { <-ctx.Done() }
