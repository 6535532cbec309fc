// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/config"
	"wherry.example/wherry/release"
)

// held is a world whose downloads of OS files wait.
type held struct {
	*world
	asked, answer chan bool
	downloads     atomic.Int32
}

func holdDownloads(t *testing.T, mode string) *held {
	repo := newRepository(t)
	repo.publish("1.1.0")
	h := &held{world: repo.world("1.0.0"), asked: make(chan bool, 9), answer: make(chan bool)}
	h.config.Mode = mode
	repo.attack = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "."+release.OSFile) {
			h.downloads.Add(1)
			h.asked <- true
			<-h.answer
		}
		return false
	}
	h.start()
	return h
}

// joins waits until somebody has joined what goes on.
func joins(t *testing.T, u *Updater) {
	t.Helper()
	for range 1000 {
		u.mu.Lock()
		joined := u.job != nil && u.job.heir != nil
		u.mu.Unlock()
		if joined {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("nobody joined")
}

// Who asks for what the machine downloads by itself sees how far it is and gets what they asked for; nothing is fetched twice.
func TestJoin(t *testing.T) {
	for _, mode := range []string{config.UpdatesAutomatic, config.UpdatesDownloadOnly} {
		for _, wish := range []Request{{By: "me"}, {By: "me", StageOnly: true}, {By: "me", Version: new(v("1.1.0"))}} {
			w := holdDownloads(t, mode)
			var phases, said []string
			err := w.life(func(u *Updater) error {
				round := make(chan time.Duration, 1)
				go func() { round <- u.round(t.Context()) }()
				<-w.asked
				result := make(chan error, 1)
				go func() {
					result <- u.Apply(wish, func(p Progress) {
						if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
							phases, said = append(phases, p.Phase), append(said, p.Message)
						}
					})
				}()
				joins(t, u)
				for name, other := range map[string]Request{"another version": {Version: new(v("1.2.0"))}, "another wish": {StageOnly: !wish.StageOnly}} {
					if err := u.Apply(other, nil); !errdefs.IsConflict(err) {
						t.Errorf("%s, %+v: %s: %v", mode, wish, name, err)
					}
				}
				close(w.answer)
				<-round
				if err := <-result; err != nil {
					return err
				}
				u.round(t.Context()) // the machine does not go on by itself with what is somebody's
				return nil
			})
			if err != nil || w.rebooted == wish.StageOnly || w.downloads.Load() != 1 {
				t.Errorf("%s, %+v: %v, restarted %v, %d downloads", mode, wish, err, w.rebooted, w.downloads.Load())
			}
			if !slices.Contains(phases, "downloading") || !strings.Contains(said[0], "began by itself at") {
				t.Errorf("%s, %+v: phases %v, said %q", mode, wish, phases, said)
			}
			if a := w.record().Attempt; a == nil || a.How != ByHand || a.By != "me" {
				t.Errorf("%s, %+v: %+v", mode, wish, a)
			}
			if w.untilQuiet(); w.running != "1.1.0" {
				t.Errorf("%s, %+v: %s runs", mode, wish, w.running)
			}
		}
	}
}

// Who joins when the release is being staged decides about the restart.
func TestJoinLate(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.start()
	err := w.life(func(u *Updater) error {
		j, err := u.begin(Automatic, Request{By: "automatic"}, nil)
		if err != nil {
			return err
		}
		result := make(chan error, 1)
		var once sync.Once
		j.also = func(p Progress) {
			if p.Phase != "staging" {
				return
			}
			once.Do(func() {
				go func() { result <- u.Apply(Request{By: "me", StageOnly: true}, nil) }()
				joins(t, u)
			})
		}
		if err := j.end(u.fromWeb(j, Request{})); err != nil {
			return err
		}
		return <-result
	})
	if a := w.record().Attempt; err != nil || w.rebooted || a == nil || a.How != ByHand || a.By != "me" {
		t.Errorf("%v, restarted %v, %+v", err, w.rebooted, a)
	}
}

// Of an attempt that fails whoever joined makes an attempt of their own.
func TestJoinFailed(t *testing.T) {
	w := holdDownloads(t, config.UpdatesAutomatic)
	err := w.life(func(u *Updater) error {
		j, err := u.begin(Automatic, Request{By: "automatic"}, nil)
		if err != nil {
			return err
		}
		result := make(chan error, 1)
		go func() { result <- u.Apply(Request{}, nil) }()
		joins(t, u)
		j.end(errDark)
		close(w.answer)
		return <-result
	})
	if err != nil || !w.rebooted {
		t.Errorf("%v, restarted %v", err, w.rebooted)
	}
}

// The same wish again follows the attempt to its end, as after the loss of a connection; another one is told what is under way.
func TestTwoPeople(t *testing.T) {
	w := holdDownloads(t, config.UpdatesManual)
	err := w.life(func(u *Updater) error {
		result := make(chan error, 2)
		go func() { result <- u.Apply(Request{By: "SHA256:me"}, nil) }()
		<-w.asked
		err := u.Apply(Request{StageOnly: true}, nil)
		for _, want := range []string{"another update is under way (by hand): downloading 1.1.0, begun at ", " UTC by SHA256:me: ", "only the same wish joins it"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("another wish: %v, want %q", err, want)
			}
		}
		var followed atomic.Bool
		go func() {
			result <- u.Apply(Request{By: "SHA256:you", Version: new(v("1.1.0"))}, func(p Progress) { followed.Store(true) })
		}()
		for !followed.Load() {
			time.Sleep(time.Millisecond)
		}
		close(w.answer)
		if err := <-result; err != nil {
			return err
		}
		return <-result
	})
	if err != nil || !w.rebooted || w.downloads.Load() != 1 {
		t.Errorf("%v, restarted %v, %d downloads", err, w.rebooted, w.downloads.Load())
	}
}
