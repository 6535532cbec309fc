// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package machine is the composition root of wherryd: it builds every subsystem
// of the booted machine, in order, in one function, and takes them down again.
//
// The order is what each needs: state before the machine's key and its
// configuration, the configuration before everything that follows it. Nothing
// waits for the network or the clock. What one subsystem needs of another is a
// narrow value, written here and nowhere else; this package wires and decides
// nothing. A subsystem that cannot start says so on the board, and the machine
// comes up without it: the API is what a person needs most when something is
// wrong. Only without its key, or when nobody could be let in, does the machine
// end; PID 1 starts it again.
package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/machine/attest"
	"wherry.example/wherry/internal/machine/bootslots"
	"wherry.example/wherry/internal/machine/console"
	"wherry.example/wherry/internal/machine/containernet"
	"wherry.example/wherry/internal/machine/engine"
	"wherry.example/wherry/internal/machine/hardening"
	"wherry.example/wherry/internal/machine/install"
	"wherry.example/wherry/internal/machine/network"
	"wherry.example/wherry/internal/machine/observe"
	"wherry.example/wherry/internal/machine/osimage"
	"wherry.example/wherry/internal/machine/provision"
	"wherry.example/wherry/internal/machine/server"
	"wherry.example/wherry/internal/machine/server/enginecode"
	"wherry.example/wherry/internal/machine/status"
	"wherry.example/wherry/internal/machine/storage"
	"wherry.example/wherry/internal/machine/timesync"
	"wherry.example/wherry/internal/machine/trial"
	"wherry.example/wherry/internal/machine/update"
	"wherry.example/wherry/internal/machine/volume"
)

// Where things are. State outlives an update, run does not outlive the boot.
const (
	stateDir = "/state"
	runDir   = "/run/wherry"
	// machineKey is the machine's identity, in the state.
	machineKey = "machine/key"
)

// Options is what wherryd's main knows.
type Options struct {
	Version string
	Log     *slog.Logger
	Ring    *observe.Log // where Log writes
}

// parts are the subsystems. Methods of other files answer the API from them.
type parts struct {
	Options
	board     *status.Board
	console   *console.Console
	modules   *module.Loader
	storage   *storage.Storage
	config    *provision.Store
	network   *network.Network
	clock     *timesync.Clock
	volumes   *volume.Volumes
	networks  *containernet.Networks
	engine    *engine.Engine
	died      string // why a kernel before this one died, if one did
	slots     *bootslots.Slots
	updates   *update.Updater
	installer *install.Installer
	trial     *trial.Trial
	server    *server.Server
	events    atomic.Pointer[engine.Engine] // engine, for those who may be asked before it is there

	work sync.WaitGroup // loops that end with the context
}

// Run is the machine, until ctx ends. Containers are stopped before it returns.
func Run(ctx context.Context, o Options) error {
	p := &parts{Options: o, board: &status.Board{}, console: console.New()}
	ctx, cancel := context.WithCancel(ctx)
	defer p.work.Wait()
	defer cancel()
	if err := p.prepare(ctx); err != nil {
		return err
	}
	key, err := server.LoadOrCreateKey(filepath.Join(stateDir, machineKey))
	if err != nil {
		return fmt.Errorf("the machine's key: %w", err)
	}
	p.installer = p.newInstaller()
	p.provision(ctx)
	p.startNetwork(ctx)
	p.startTime(ctx)
	if err := p.startEngine(ctx); err != nil {
		return err
	}
	p.updates = p.newUpdates()
	machine, _ := p.config.Current()
	p.server, err = server.New(server.Options{
		Key: key, Version: p.Version, Access: machine.Access, Log: p.Log,
		Classify:   enginecode.Of,
		Containers: containers{p.engine}, Images: p.engine, Volumes: p.volumes, Networks: p.networks, Machine: answers{p},
		Updates: p.updates, Install: installs{p},
		Attester: attest.New(attest.Options{Key: key, Version: p.Version}),
	})
	if err != nil {
		return fmt.Errorf("the API: %w", err)
	}
	return p.serve(ctx)
}

// prepare makes the kernel and the state ready for the rest.
func (p *parts) prepare(ctx context.Context) error {
	var err error
	if p.modules, err = module.Open("/lib/modules"); err != nil {
		return err
	}
	p.note("kernel settings", hardening.Apply(p.Log, nil))
	p.readDeaths()
	if p.storage, err = storage.Open(ctx, storage.Options{Dir: stateDir, Settled: settled(ctx), Load: p.modules.Load, Board: p.board, Log: p.Log}); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	p.console.Step("state", describe(p.storage.State()))
	if err := os.MkdirAll(filepath.Join(stateDir, "machine"), 0o700); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	p.note("random numbers", hardening.Seed(filepath.Join(stateDir, "machine", "seed")))
	return nil
}

// settled is closed when PID 1 says that the drivers of all devices are loaded.
func settled(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := os.Stat(filepath.Join(runDir, "settled")); err == nil {
				return
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

func describe(s *wherryv1.StateInfo) string {
	if !s.Persistent {
		return "in memory: nothing outlives a power-off"
	}
	return s.Filesystem + " on " + s.Device
}

// note logs what went wrong without ending the machine.
func (p *parts) note(what string, err error) {
	if err != nil {
		p.Log.Warn(what, "error", err)
	}
}

// provision finds the configuration and lets everybody follow it.
func (p *parts) provision(ctx context.Context) {
	o := provision.Options{Log: p.Log, Board: p.board, Dir: filepath.Join(stateDir, "machine"), Sources: p.sources()}
	p.config = provision.NewStore(o, provision.Load(ctx, o))
	_, source := p.config.Current()
	p.console.Step("configuration", "from "+source)
	p.follow(ctx, func(m config.Machine) {
		p.note("kernel settings", hardening.Apply(p.Log, m.Sysctls))
		p.note("kernel modules", p.modules.Load(m.Modules...))
	})
}

// follow calls f with the configuration now and with each newer one.
func (p *parts) follow(ctx context.Context, f func(config.Machine)) {
	machines, cancel := p.config.Subscribe()
	f(<-machines)
	p.work.Go(func() {
		defer cancel()
		for {
			select {
			case m := <-machines:
				f(m)
			case <-ctx.Done():
				return
			}
		}
	})
}

func (p *parts) startNetwork(ctx context.Context) {
	p.network = network.New(network.Options{Log: p.Log, Board: p.board, RunDir: runDir})
	p.work.Go(func() {
		again(ctx, func() error {
			machines, cancel := p.config.Subscribe()
			defer cancel()
			err := p.network.Run(ctx, machines)
			p.note("network", err)
			return err
		})
	})
}

// startTime keeps the clock. It follows the configuration's servers and those of DHCP.
func (p *parts) startTime(ctx context.Context) {
	p.clock = timesync.New(timesync.Options{Log: p.Log, Board: p.board, Dir: filepath.Join(stateDir, "machine"), Version: p.Version})
	p.follow(ctx, func(m config.Machine) { p.clock.SetConfigured(m.Time.Servers) })
	p.work.Go(func() { p.clock.Run(ctx) })
	p.work.Go(func() {
		states, cancel := p.network.Watch()
		defer cancel()
		for {
			select {
			case s := <-states:
				p.clock.SetNetwork(s.Online(), s.TimeServers)
			case <-ctx.Done():
				return
			}
		}
	})
}

// again repeats a loop that ended with an error, after a pause.
func again(ctx context.Context, f func() error) {
	for f() != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
	}
}

// startEngine brings up what runs containers, and the containers.
func (p *parts) startEngine(ctx context.Context) error {
	var err error
	p.volumes, err = volume.Open(volume.Options{
		Dir: filepath.Join(stateDir, "volumes"), Event: p.volumeEvent, Log: p.Log,
		Users: func() map[string][]string { return p.engine.VolumeUsers() }, // the engine comes after the volumes
	})
	if err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	machine, _ := p.config.Current()
	p.networks, err = containernet.New(p.networkOptions(machine.Containers))
	if err != nil {
		return fmt.Errorf("container networks: %w", err)
	}
	p.note("container networks", p.networks.Start(ctx))
	p.engine, err = engine.New(ctx, engine.Options{
		Root: filepath.Join(stateDir, "engine"), RunDir: filepath.Join(runDir, "engine"), HostResolvConf: filepath.Join(runDir, "resolv.conf"),
		Shim: "/bin/wherry-shim", ShimDir: filepath.Join(runDir, "shim"), Reaped: filepath.Join(runDir, "reaped"),
		Hostname: machine.Name, Network: p.networks, Volumes: p.volumes, Board: p.board, Log: p.Log, Settings: settings(machine),
	})
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	p.events.Store(p.engine)
	p.follow(ctx, func(m config.Machine) {
		p.engine.Configure(settings(m))
		p.work.Go(func() { p.note("system containers", p.engine.EnsureSystem(ctx, m.SystemContainers)) })
	})
	return nil
}

func (p *parts) volumeEvent(action, name string) {
	if e := p.events.Load(); e != nil { // a volume can be made while containers are brought back
		e.Publish(&wherryv1.Event{Time: timestamppb.Now(), Kind: "volume", Action: action, Id: name, Name: name})
	}
}

func settings(m config.Machine) engine.Settings {
	return engine.Settings{Registries: m.Registries, Containers: m.Containers}
}

func (p *parts) networkOptions(c config.Containers) containernet.Options {
	// Both were checked when the document was parsed; empty means the default.
	pool4, _ := netip.ParsePrefix(c.AddressPool4)
	pool6, _ := netip.ParsePrefix(c.AddressPool6)
	return containernet.Options{
		StateDir: filepath.Join(stateDir, "networks"), RunDir: filepath.Join(runDir, "containernet"), Pool4: pool4, Pool6: pool6,
		Upstreams: func() []netip.AddrPort { return p.network.State().Nameservers },
		Search:    func() []string { return p.network.State().Search },
		Reserved:  map[uint16]string{server.Port: "the machine's API"},
		Board:     p.board, Log: p.Log,
	}
}

// shutdownLimit is a little less than PID 1 allows.
const shutdownLimit = 85 * time.Second

// serve answers the API until ctx ends, then stops the containers.
func (p *parts) serve(ctx context.Context) error {
	l, err := server.Listen(ctx)
	if err != nil {
		return fmt.Errorf("the API: %w", err)
	}
	p.follow(ctx, func(m config.Machine) { p.server.SetAccess(m.Access) })
	p.board.Set("api", true, "")
	p.announce(ctx)
	p.startImage(ctx)
	p.startInstall(ctx)
	if err := p.startUpdates(ctx); err != nil {
		return err
	}
	err = p.server.Serve(ctx, l)
	if ctx.Err() == nil {
		p.engine.Close()
		return fmt.Errorf("the API: %w", errors.Join(err, errors.New("stopped listening")))
	}
	p.closeUpdates(context.WithoutCancel(ctx)) // what works is looked at before it is stopped
	p.console.Step("containers", "stopping")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	p.engine.Shutdown(stop)
	p.engine.Close()
	p.networks.Close()
	p.note("random numbers", hardening.Save(filepath.Join(stateDir, "machine", "seed")))
	return nil
}

// startImage lets the OS image leave memory, now that nobody waits for the machine any more.
func (p *parts) startImage(ctx context.Context) {
	image := osimage.New(osimage.Options{State: stateDir, Persistent: p.storage.Persistent(), Modules: p.modules.Load, Board: p.board, Log: p.Log})
	where := make(chan string, 1)
	p.follow(ctx, func(m config.Machine) {
		select {
		case <-where: // not taken yet
		default:
		}
		where <- m.Storage.OSImage
	})
	p.work.Go(func() { image.Run(ctx, where) })
}

// announce says on the console who this machine is, now and when that changes.
func (p *parts) announce(ctx context.Context) {
	p.console.Ready(p.facts())
	changes := make(chan struct{}, 1)
	p.work.Go(func() { p.merge(ctx, changes) })
	p.work.Go(func() { p.console.Run(ctx, changes, p.facts) })
}

// merge tells of changes of the network and of the board.
func (p *parts) merge(ctx context.Context, changes chan<- struct{}) {
	states, cancelStates := p.network.Watch()
	defer cancelStates()
	lines, cancelLines := p.board.Watch()
	defer cancelLines()
	for {
		select {
		case <-states:
		case <-lines:
		case <-ctx.Done():
			return
		}
		select {
		case changes <- struct{}{}:
		default:
		}
	}
}

// facts are what the console shows.
func (p *parts) facts() console.Info {
	s, state := p.network.State(), p.storage.State()
	i := console.Info{
		Name: p.name(s), Version: p.Version, Fingerprint: p.server.Fingerprint(), Port: server.Port,
		Persistent: state.Persistent, StateDevice: state.Device,
	}
	for _, l := range s.Links {
		for _, a := range l.Addresses {
			address, _, _ := strings.Cut(a, "/")
			i.Addresses = append(i.Addresses, address)
		}
	}
	for _, line := range p.board.List() {
		if !line.Ready && line.Message != "" {
			i.Problems = append(i.Problems, line.Name+": "+line.Message)
		}
	}
	return i
}

// name is the machine's, also before the network has heard from DHCP.
func (p *parts) name(s network.State) string {
	machine, _ := p.config.Current()
	return cmp.Or(s.HostName, machine.Name, network.DefaultHostName)
}
