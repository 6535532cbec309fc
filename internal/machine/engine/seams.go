// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	"wherry.example/wherry/internal/netattach"
)

// Network gives containers their place on the machine's container networks.
// Its implementation remembers what it gave across a restart of wherryd.
type Network interface {
	// Attach is called when the container's network namespace exists and
	// before its first instruction. It either does everything or nothing.
	Attach(ctx context.Context, r NetworkRequest) (NetworkResult, error)
	// Detach gives back the addresses, ports and names of a container. It is
	// idempotent and works when the namespace is gone already.
	Detach(ctx context.Context, container string) error
	// Retain detaches every container that is not listed: called once after
	// wherryd started and knows which containers still run.
	Retain(ctx context.Context, containers []string) error
	// Check refuses a request that Attach could never satisfy (unknown
	// network, malformed port), so that create fails and not start.
	Check(r NetworkRequest) error
}

// NetworkRequest and NetworkResult are shared with the implementation.
type (
	NetworkRequest = netattach.Request
	NetworkResult  = netattach.Result
)

// Volumes finds the directories that containers mount.
type Volumes interface {
	// Ensure returns the directory of a volume, creating the volume when it does not exist.
	Ensure(ctx context.Context, name string, anonymous bool) (dir string, err error)
	// Remove removes a volume that nothing uses.
	Remove(ctx context.Context, name string) error
}
