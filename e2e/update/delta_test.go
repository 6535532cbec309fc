// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"os"
	"path/filepath"

	"wherry.example/wherry/internal/vmtest/fixture"
)

// publishDeltas puts the machine's release and the next one into the repository,
// with a delta between them.
func publishDeltas(g *rig, old fixture.Release) {
	g.t.Helper()
	g.p.Publish(old)
	g.p.PublishDelta(g.next)
}

// fallsBack: where a delta is damaged, or is one for other files although it was signed, the
// machine takes the whole file by itself, and says why.
func fallsBack(g *rig) {
	// The machine's clock may be a moment behind the time at which the rollout begins.
	g.await("the release is offered", func() error { return g.contains(newRelease+" is there", "machine", "update", "check") })
	delta := g.read(g.delta(newRelease))
	for _, c := range []struct{ version, why string }{{"1.0.2", `(not what was signed|bytes came out of the delta)`}, {"1.0.1", `not the file that was signed`}} {
		r := g.p.Variant(g.next, c.version, fixture.Change{Cmdline: "wherry.test=" + c.version})
		g.p.PublishFalseDelta(r, delta)
		if c.version == "1.0.1" {
			damaged := append([]byte(nil), delta...)
			damaged[len(damaged)/2] ^= 1
			g.write(g.delta(c.version), damaged)
		}
		g.await(c.version+" is taken", func() error {
			return g.contains(c.version+" is staged", "machine", "update", "apply", "--to", c.version, "--stage-only")
		})
		g.fetched(c.version, len(delta)+g.bytes(g.published(r)), false, c.why)
	}
}

// fetched is what the machine says about how it came to its last release.
func (g *rig) fetched(version string, bytes int, delta bool, why string) {
	g.t.Helper()
	last := g.status().Last
	if last.To != version || last.Delta != delta || last.DownloadedBytes.String() != fmt.Sprint(bytes) {
		g.t.Errorf("it came to %s by %d bytes (a delta: %v), and says %+v", version, bytes, delta, last)
	}
	g.match("the status of "+version, last.DeltaRefused, why)
	history := g.Run("machine", "update", "history", "-n", "1")
	if delta {
		g.match("the history", history, version+`.* as a delta`)
	} else {
		g.match("the history", history, version+`(?s).*`+why)
	}
	g.t.Logf("%s: %d of %s bytes fetched: %s", version, bytes, last.Bytes, last.DeltaRefused)
}

// delta finds the one delta to a release in the repository.
func (g *rig) delta(version string) string {
	g.t.Helper()
	found, err := filepath.Glob(filepath.Join(g.p.Repository, "targets", "releases", version, "*", "*.delta"))
	if err != nil || len(found) != 1 {
		g.t.Fatalf("the repository's deltas to %s: %v, %v", version, found, err)
	}
	return found[0]
}

func (g *rig) bytes(file string) int {
	g.t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		g.t.Fatal(err)
	}
	return int(info.Size())
}
