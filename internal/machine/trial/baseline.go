// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"wherry.example/wherry/api/wherryv1"
)

// baseline is how a machine was while it was well. Releases of different ages
// exchange it: fields are added, never changed.
type baseline struct {
	Online      bool              `json:"online"`
	Links       []link            `json:"links,omitempty"`
	Persistent  bool              `json:"persistent"`
	Fingerprint string            `json:"fingerprint,omitempty"`
	Containers  []containerBefore `json:"containers,omitempty"`
}

// link is a link that had a signal. Addresses may differ after a reboot, their kinds may not.
type link struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	IPv4    string `json:"ipv4,omitempty"` // one of them, to show
	IPv6    string `json:"ipv6,omitempty"`
	Gateway string `json:"gateway,omitempty"`
}

type containerBefore struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	System  bool   `json:"system,omitempty"`
	Healthy bool   `json:"healthy,omitempty"`
}

// maxBaseline bounds what Wait reads; a machine with a thousand containers needs 130 KB.
const maxBaseline = 4 << 20

func readBaseline(saved json.RawMessage) (b baseline, err error) {
	if len(saved) == 0 {
		return b, nil
	}
	if len(saved) > maxBaseline {
		return b, fmt.Errorf("what the machine was like before: %d bytes are too many", len(saved))
	}
	if err := json.Unmarshal(saved, &b); err != nil {
		return b, fmt.Errorf("what the machine was like before: %w", err)
	}
	return b, nil
}

func baselineOf(links []*wherryv1.Link, state *wherryv1.StateInfo, fingerprint string, containers []Container) baseline {
	b := baseline{Persistent: state.GetPersistent(), Fingerprint: fingerprint}
	for _, l := range links {
		if !l.Up {
			continue
		}
		b.Links = append(b.Links, linkOf(l))
		b.Online = b.Online || len(l.Addresses) > 0
	}
	for _, c := range containers {
		if runs(c) && c.Returns {
			healthy := c.State.GetHealth() == wherryv1.HealthState_HEALTH_STATE_HEALTHY
			b.Containers = append(b.Containers, containerBefore{c.ID, c.Name, c.System, healthy})
		}
	}
	return b
}

func linkOf(l *wherryv1.Link) link {
	out := link{Name: l.Name, MAC: l.Mac, Gateway: l.Gateway}
	for _, text := range l.Addresses {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
		case p.Addr().Is4():
			out.IPv4 = cmp.Or(out.IPv4, text)
		default:
			out.IPv6 = cmp.Or(out.IPv6, text)
		}
	}
	return out
}

// runs is also true of what is frozen: a reboot thaws it.
func runs(c Container) bool {
	return slices.Contains([]wherryv1.ContainerPhase{
		wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING, wherryv1.ContainerPhase_CONTAINER_PHASE_PAUSED,
	}, c.State.GetPhase())
}
