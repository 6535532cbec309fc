// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

const (
	running    = wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING
	restarting = wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING
	exited     = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED
	paused     = wherryv1.ContainerPhase_CONTAINER_PHASE_PAUSED

	none      = wherryv1.HealthState_HEALTH_STATE_NONE
	starting  = wherryv1.HealthState_HEALTH_STATE_STARTING
	healthy   = wherryv1.HealthState_HEALTH_STATE_HEALTHY
	unhealthy = wherryv1.HealthState_HEALTH_STATE_UNHEALTHY
)

func eth(addresses ...string) *wherryv1.Link {
	return &wherryv1.Link{Name: "eth0", Mac: "52:54:00:00:00:01", Up: true, Addresses: addresses, Gateway: "10.0.2.2"}
}

// through is a baseline as the next release gets it: by way of its bytes.
func through(t *testing.T, b baseline) baseline {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := readBaseline(data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestJudgeNetwork(t *testing.T) {
	both := []*wherryv1.Link{eth("10.0.2.15/24", "fec0::15/64")}
	renamed := eth("10.0.2.77/24", "fec0::1/64")
	renamed.Name = "enp0s2"
	down := eth()
	down.Up = false
	noRoute := eth("10.0.2.15/24", "fec0::15/64")
	noRoute.Gateway = ""
	route6 := eth("10.0.2.15/24", "fec0::15/64")
	route6.Gateway = "fe80::2"
	other := &wherryv1.Link{Name: "eth0", Mac: "52:54:00:00:00:02", Up: true, Addresses: []string{"10.0.2.15/24"}, Gateway: "10.0.2.2"}
	tests := map[string]struct {
		before, now []*wherryv1.Link
		want        string
	}{
		"the same":              {both, both, ""},
		"other addresses, name": {both, []*wherryv1.Link{renamed}, ""},
		"nothing before":        {nil, nil, ""},
		"was down before":       {[]*wherryv1.Link{down}, nil, ""},
		"without addresses":     {[]*wherryv1.Link{eth()}, []*wherryv1.Link{eth()}, ""},
		"no driver":             {both, nil, "eth0 is gone: is its driver in this release?"},
		"another card":          {both, []*wherryv1.Link{other}, "eth0 is gone: is its driver in this release?"},
		"no signal":             {both, []*wherryv1.Link{down}, "eth0 has no signal"},
		"no IPv6":               {both, []*wherryv1.Link{eth("10.0.2.15/24")}, "eth0 has no IPv6 address (it had fec0::15/64)"},
		"no IPv4":               {both, []*wherryv1.Link{eth("fec0::15/64")}, "eth0 has no IPv4 address (it had 10.0.2.15/24)"},
		"no route":              {both, []*wherryv1.Link{noRoute}, "eth0 has no default route (it went to 10.0.2.2)"},
		"a route of IPv6 alone": {both, []*wherryv1.Link{route6}, "eth0 has no default route (it went to 10.0.2.2)"},
		"nonsense":              {both, []*wherryv1.Link{eth("x", "y")}, "eth0 has no IPv4 address (it had 10.0.2.15/24), eth0 has no IPv6 address (it had fec0::15/64)"},
	}
	for name, tt := range tests {
		before := through(t, baselineOf(tt.before, nil, "", nil))
		got := judgeNetwork(before, tt.now)
		if len(got) != 1 || got[0].Message != tt.want || got[0].Well != (tt.want == "") {
			t.Errorf("%s: %+v, want %q", name, got, tt.want)
		}
	}
}

// vessel makes a container that was started at second n.
func vessel(id string, phase wherryv1.ContainerPhase, health wherryv1.HealthState, n int64) Container {
	return Container{ID: id, Name: "name-" + id, Returns: true, State: &wherryv1.ContainerState{
		Phase: phase, Health: health, StartedAt: &timestamppb.Timestamp{Seconds: n},
	}}
}

func TestBaselineContainers(t *testing.T) {
	once := vessel("once", running, none, 1)
	once.Returns = false
	system := vessel("system", running, healthy, 1)
	system.System = true
	b := baselineOf(nil, nil, "", []Container{
		vessel("web", running, healthy, 1), vessel("plain", running, none, 1), vessel("frozen", paused, none, 1), vessel("ill", running, unhealthy, 1),
		vessel("ended", exited, healthy, 1), vessel("falls", restarting, none, 1), once, system,
	})
	want := []containerBefore{
		{ID: "web", Name: "name-web", Healthy: true}, {ID: "plain", Name: "name-plain"}, {ID: "frozen", Name: "name-frozen"}, {ID: "ill", Name: "name-ill"},
		{ID: "system", Name: "name-system", System: true, Healthy: true},
	}
	if diff := cmp.Diff(want, b.Containers); diff != "" {
		t.Error(diff)
	}
}

func TestJudgeContainers(t *testing.T) {
	crashed := vessel("a", exited, none, 2)
	crashed.State.ExitCode, crashed.State.Error = 3, "no such file"
	sick := vessel("a", running, unhealthy, 2)
	sick.State.HealthLog = []*wherryv1.HealthResult{{ExitCode: 0, Output: "old"}, {ExitCode: 7, Output: "cannot\nfind\x1b[1m it " + strings.Repeat("x", 5000)}}
	stopped := vessel("a", exited, none, 2)
	stopped.State.StoppedByUser = true
	done := vessel("a", exited, none, 2)
	done.OnFailure = true
	failed := vessel("a", exited, none, 2)
	failed.OnFailure, failed.State.ExitCode = true, 1
	anew := vessel("b", running, healthy, 2)
	anew.Name = "name-a"
	othersName := anew
	othersName.System = true
	well := vessel("a", running, healthy, 1)
	tests := map[string]struct {
		before Container
		looks  [][]Container
		want   string
	}{
		"runs":                        {vessel("a", running, none, 1), [][]Container{{vessel("a", running, none, 2)}}, ""},
		"healthy":                     {well, [][]Container{{vessel("a", running, healthy, 2)}}, ""},
		"made anew":                   {well, [][]Container{{anew}}, ""},
		"the other namespace":         {well, [][]Container{{othersName}}, "it is gone"},
		"was ill before":              {vessel("a", running, unhealthy, 1), [][]Container{{vessel("a", running, unhealthy, 2)}}, ""},
		"gone":                        {well, [][]Container{{}}, "it is gone"},
		"removed by hand":             {well, [][]Container{{vessel("a", running, starting, 2)}, {}, {}}, ""},
		"stopped by hand":             {well, [][]Container{{stopped}}, ""},
		"not yet":                     {well, [][]Container{{vessel("a", restarting, none, 0)}}, "it does not run (restarting)"},
		"ended":                       {well, [][]Container{{crashed}}, "it does not run (exited, exit code 3, no such file)"},
		"starting":                    {well, [][]Container{{vessel("a", running, starting, 2)}}, `it was healthy, now its health is "starting"`},
		"ill":                         {well, [][]Container{{sick}}, `it was healthy, now its health is "unhealthy", its check ended with 7: cannot find[1m it xxx`},
		"a job that is done":          {vessel("a", running, none, 1), [][]Container{{done}}, ""},
		"a job that failed":           {vessel("a", running, none, 1), [][]Container{{failed}}, "it does not run (exited, exit code 1)"},
		"came after a while":          {well, [][]Container{{crashed}, {sick}, {vessel("a", running, healthy, 2)}}, ""},
		"removed and made anew badly": {well, [][]Container{{well}, {}, {crashed}}, "it does not run (exited, exit code 3, no such file)"},
	}
	for name, tt := range tests {
		var h history
		before := through(t, baselineOf(nil, nil, "", []Container{tt.before}))
		var got []Result
		for _, now := range tt.looks {
			got = h.judgeContainers(before, now, time.Now())
		}
		if len(got) != 1 || got[0].Name != "container name-a" || !strings.HasPrefix(got[0].Message, tt.want) || (tt.want == "") != (got[0].Message == "") ||
			got[0].Well != (tt.want == "") || len(got[0].Message) > maxMessage+10 {
			t.Errorf("%s: %+v, want %q", name, got, tt.want)
		}
	}
}

// What falls over begins again, and has to stay up for longer each time.
func TestStability(t *testing.T) {
	var h history
	before := baselineOf(nil, nil, "", []Container{vessel("a", running, none, 0)})
	at := time.Unix(1000, 0)
	look := func(second int, phase wherryv1.ContainerPhase, started int64) time.Duration {
		now := at.Add(time.Duration(second) * time.Second)
		// The clock of the container's start is another one: it may be years off.
		return h.note(now, h.judgeContainers(before, []Container{vessel("a", phase, none, started)}, now))
	}
	steps := []struct {
		second  int
		phase   wherryv1.ContainerPhase
		started int64
		held    int
		needed  int
	}{
		{0, running, 5e9, 0, 10},
		{4, running, 5e9, 4, 10},
		{6, exited, 5e9, 0, 10},
		{7, running, 5e9 + 1, 0, 20},
		{9, running, 5e9 + 1, 2, 20},
		{15, running, 3, 0, 40}, // fell over between two looks
		{16, running, 3, 1, 40},
		{20, running, 4, 0, 80},
		{21, running, 5, 0, 80},
		{101, running, 5, 80, 80},
	}
	for _, s := range steps {
		held := look(s.second, s.phase, s.started)
		if need := h.needed(10 * time.Second); held != time.Duration(s.held)*time.Second || need != time.Duration(s.needed)*time.Second {
			t.Errorf("second %d: held %v of %v, want %d of %d", s.second, held, need, s.held, s.needed)
		}
	}
	got := h.failures([]Result{{Name: "x", Well: true}}, 10*time.Second)
	if len(got) != 1 || got[0].Name != "container name-a" || got[0].Message != "it was started anew 4 times" {
		t.Errorf("failures: %+v", got)
	}
	want := []Result{{Name: "x", Well: true}, {Name: "container name-a", Message: "it was started anew 4 times"}, {Name: "z"}}
	if diff := cmp.Diff(want, judged([]Result{{Name: "x", Well: true}, {Name: "container name-a", Well: true}}, append(got, Result{Name: "z"}))); diff != "" {
		t.Error(diff)
	}
	if got := (&history{}).failures(nil, time.Second); len(got) != 1 || got[0].Message != "all was well only at the end, for less than 1s" {
		t.Errorf("failures: %+v", got)
	}
}

func TestReadBaseline(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "null": true, "{}": true, `{"links":[{"name":"a","speed":7}],"new":{}}`: true,
		"{": false, "[]": false, `{"links":7}`: false, `"` + strings.Repeat("x", maxBaseline) + `"`: false,
	} {
		if _, err := readBaseline(json.RawMessage(text)); (err == nil) != ok {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func FuzzJudge(f *testing.F) {
	f.Add([]byte(`{"online":true,"links":[{"name":"eth0","ipv4":"10.0.0.1/8","gateway":"::1"}],"containers":[{"id":"a","name":"b","healthy":true}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := readBaseline(data)
		if err != nil {
			return
		}
		var h history
		results := append(judgeNetwork(b, []*wherryv1.Link{eth("10.0.2.15/24")}), h.judgeContainers(b, []Container{vessel("a", exited, none, 1)}, time.Now())...)
		if text := (&Failure{Results: h.failures(results, time.Second)}).Error(); len(text) > 64<<10 && len(data) < 1<<10 {
			t.Errorf("%d bytes of a failure", len(text))
		}
	})
}
