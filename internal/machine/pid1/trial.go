// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"time"

	"wherry.example/wherry/internal/format/bootcount"
	"wherry.example/wherry/internal/linux/efivar"
	"wherry.example/wherry/internal/linux/power"
)

// releaseSettled exists once wherryd has nothing left to decide about this
// boot's release: it was kept, or was no trial.
const releaseSettled = "/run/wherry/settled-release"

// releaseTrial is how many seconds wherryd gives the release, written when it begins to judge it.
const releaseTrial = "/run/wherry/trial-limit"

// trialLimit is how long that may take, half of it for wherryd to come up and half for
// the trial, unless wherryd gives that longer (longer). Whatever wherryd does not do
// (it crashes, hangs, or never answers) ends here.
const trialLimit = 10 * time.Minute

// maxTrial bounds what the command line may ask for.
const maxTrial = 24 * time.Hour

// trialFlag reads the value of wherry.trial, in seconds.
func trialFlag(value string) (time.Duration, bool) {
	n, err := strconv.Atoi(value)
	d := time.Duration(n) * time.Second
	return d, err == nil && n > 0 && d <= maxTrial
}

// watchTrial restarts a machine whose new release nobody has kept in time: the
// loader's count goes down with each start, and then an older release runs.
func (m *machine) watchTrial() {
	defer m.survive("trial of the release")
	trial, err := onTrial(efivar.Variables{})
	if err != nil {
		m.log.Errorf("trial of the release: %v", err)
	}
	if !trial {
		return
	}
	limit := cmp.Or(m.flags.trial, trialLimit)
	m.log.Infof("this release is on trial: a restart follows unless it is kept within %s", limit)
	time.Sleep(limit)
	if m.flags.trial == 0 {
		more := longer(releaseTrial)
		time.Sleep(more)
		limit += more
	}
	if _, err := os.Stat(releaseSettled); errors.Is(err, fs.ErrNotExist) {
		m.request(power.Restart, "nobody kept this release within "+limit.String())
	}
}

// longer is by how much the trial that wherryd holds does not fit into trialLimit.
func longer(file string) time.Duration {
	text, err := os.ReadFile(file)
	asked, ok := trialFlag(string(text))
	if err != nil || !ok { // wherryd does not judge yet
		return 0
	}
	return max(0, asked-trialLimit/2)
}

// onTrial asks the loader's variables. A machine without them has no trials.
func onTrial(v efivar.Variables) (bool, error) {
	if err := v.Open(); err != nil {
		return false, nil
	}
	selected, err := v.Text(efivar.Name{Name: "LoaderEntrySelected", Vendor: efivar.Loader})
	counted, errCounted := v.Text(efivar.Name{Name: "LoaderBootCountPath", Vendor: efivar.Loader})
	return bootcount.Trial(selected, counted), errors.Join(err, errCounted)
}
