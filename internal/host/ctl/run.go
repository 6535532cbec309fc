// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/ctl/terminal"
)

// RunOptions are the flags of run and create that are not the container's.
type RunOptions struct {
	Detach     bool
	Pull       string // missing, always, never
	Platform   string
	SigProxy   bool
	DetachKeys string
	IDFile     string
}

// Create creates a container and prints its id.
func (c *CLI) Create(ctx context.Context, spec *wherryv1.ContainerSpec, o RunOptions) error {
	created, err := c.create(ctx, spec, o)
	if err != nil {
		return exitWith(exitFailed, err)
	}
	fmt.Fprintln(c.Out, created.Id)
	return nil
}

// Run creates and starts a container, and stays with it unless it is detached.
func (c *CLI) Run(ctx context.Context, spec *wherryv1.ContainerSpec, o RunOptions) error {
	keys, err := terminal.ParseDetachKeys(o.DetachKeys)
	if err == nil && !o.Detach {
		err = c.needTerminal(spec.Tty, spec.Stdin)
	}
	if err != nil {
		return exitWith(exitFailed, err)
	}
	created, err := c.create(ctx, spec, o)
	if err != nil {
		return exitWith(exitFailed, err)
	}
	if err := c.reserve(ctx, spec.Ports); err != nil {
		c.discard(ctx, spec, created.Id)
		return exitWith(exitFailed, err)
	}
	if o.Detach {
		return exitWith(exitFailed, c.runDetached(ctx, spec, created.Id))
	}
	s := session{tty: spec.Tty, stdin: spec.Stdin, sigProxy: o.SigProxy, detach: keys,
		started: func() { c.publish(ctx, created.Id, spec.Ports) }}
	var led []*wherryv1.PortMapping
	if spec.AutoRemove {
		s.started = func() {
			c.publish(ctx, created.Id, spec.Ports)
			led = c.portsOf(ctx, created.Id)
		}
	}
	code, err := c.attach(ctx, &wherryv1.AttachStart{Container: created.Id, Stdin: spec.Stdin, Start: true}, s)
	if err != nil && !errors.Is(err, terminal.ErrDetached) {
		c.discard(ctx, spec, created.Id)
	}
	if err == nil && spec.AutoRemove {
		c.awaitRemoval(ctx, created.Id)
		c.unpublish(ctx, append(led, spec.Ports...))
	}
	return c.end(code, err)
}

// removalLimit is more than a removal takes on a machine that is well.
const removalLimit = 30 * time.Second

// awaitRemoval gives a --rm container that has ended time to be gone: its name,
// ports and volumes are free when the command returns.
func (c *CLI) awaitRemoval(ctx context.Context, id string) {
	api, err := c.API(ctx)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, removalLimit)
	defer cancel()
	_, err = unary(ctx, api.Containers.WaitContainer, &wherryv1.WaitContainerRequest{Container: id, Removed: true})
	if err != nil && codeOf(err) != connect.CodeNotFound {
		c.notef("the container %s may still be there: %v", id, err)
	}
}

func (c *CLI) runDetached(ctx context.Context, spec *wherryv1.ContainerSpec, id string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if _, err := unary(ctx, api.Containers.StartContainer, &wherryv1.StartContainerRequest{Container: id}); err != nil {
		c.discard(ctx, spec, id)
		return err
	}
	fmt.Fprintln(c.Out, id)
	c.publish(ctx, id, spec.Ports)
	return nil
}

// discard removes a --rm container that never ran. One that did run removes itself.
func (c *CLI) discard(ctx context.Context, spec *wherryv1.ContainerSpec, id string) {
	if !spec.AutoRemove {
		return
	}
	api, err := c.API(ctx)
	if err != nil {
		return
	}
	res, err := unary(context.WithoutCancel(ctx), api.Containers.InspectContainer, &wherryv1.InspectContainerRequest{Container: id})
	if err != nil || res.Container.GetState().GetPhase() != wherryv1.ContainerPhase_CONTAINER_PHASE_CREATED {
		return
	}
	_, err = unary(context.WithoutCancel(ctx), api.Containers.RemoveContainer, &wherryv1.RemoveContainerRequest{Container: id, Volumes: true})
	if err != nil {
		c.notef("the container %s is still there: %v", id, err)
	}
}

// create makes sure that the image is there and creates the container.
func (c *CLI) create(ctx context.Context, spec *wherryv1.ContainerSpec, o RunOptions) (*wherryv1.CreateContainerResponse, error) {
	api, err := c.API(ctx)
	if err != nil {
		return nil, err
	}
	if spec.Image, err = c.provideImage(ctx, spec.Image, o); err != nil {
		return nil, err
	}
	created, err := unary(ctx, api.Containers.CreateContainer, &wherryv1.CreateContainerRequest{Spec: spec})
	if err != nil {
		return nil, err
	}
	for _, w := range created.Warnings {
		c.notef("warning: %s", w)
	}
	if o.IDFile != "" {
		if err := writeNew(o.IDFile, created.Id); err != nil {
			return nil, err
		}
	}
	return created, nil
}

func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("--cidfile: %w", err)
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// provideImage brings the image to the machine: built from a folder, loaded
// from an archive, or pulled.
func (c *CLI) provideImage(ctx context.Context, image string, o RunOptions) (string, error) {
	switch kind, err := localImage(image); {
	case err != nil:
		return "", err
	case kind == localFolder:
		return c.buildFolder(ctx, image)
	case kind == localArchive:
		return c.loadOne(ctx, image)
	}
	switch o.Pull {
	case "never":
		return image, nil
	case "", "missing":
		return image, c.pull(ctx, image, o.Platform, true)
	case "always":
		return image, c.pull(ctx, image, o.Platform, false)
	}
	return "", fmt.Errorf("--pull %q: want missing, always or never", o.Pull)
}

type localKind int

const (
	notLocal localKind = iota
	localFolder
	localArchive
)

// localImage says whether an image is a path of this computer. Names of images
// never begin with a dot or a slash.
func localImage(image string) (localKind, error) {
	if image != "." && image != ".." && !strings.HasPrefix(image, "./") && !strings.HasPrefix(image, "../") && !strings.HasPrefix(image, "/") {
		return notLocal, nil
	}
	info, err := os.Stat(image)
	switch {
	case err != nil:
		return notLocal, fmt.Errorf("image: %w", err)
	case info.IsDir():
		return localFolder, nil
	case info.Mode().IsRegular():
		return localArchive, nil
	}
	return notLocal, fmt.Errorf("image %s is neither a folder with a Go program nor an archive", image)
}

func (c *CLI) buildFolder(ctx context.Context, dir string) (string, error) {
	if c.BuildLocal == nil {
		return "", errors.New("this wherry cannot build images from folders")
	}
	api, err := c.API(ctx)
	if err != nil {
		return "", err
	}
	status, err := unary(ctx, api.Machine.GetStatus, &wherryv1.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	c.notef("building %s for %s", dir, status.Architecture)
	r, w := io.Pipe()
	defer r.Close()
	var name string
	go func() {
		var err error
		name, err = c.BuildLocal(ctx, dir, status.Architecture, w)
		w.CloseWithError(err)
	}()
	// The first byte comes when the program is built: a broken one never troubles the machine.
	archive := bufio.NewReader(r)
	if _, err := archive.Peek(1); err != nil {
		return "", fmt.Errorf("build %s: %w", dir, err)
	}
	images, err := c.load(ctx, archive, "loading "+dir)
	if err != nil {
		return "", err
	}
	if len(images) > 0 && len(images[0].Names) > 0 {
		return images[0].Names[0], nil
	}
	return name, nil // set before the archive ended
}

// loadOne loads an archive that holds one image.
func (c *CLI) loadOne(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("load image: %w", err)
	}
	defer f.Close()
	images, err := c.load(ctx, f, "loading "+path)
	if err != nil {
		return "", err
	}
	if len(images) != 1 {
		return "", fmt.Errorf("%s holds %d images: load it with `wherry load -i %s` and name one", path, len(images), path)
	}
	if names := images[0].Names; len(names) > 0 {
		return names[0], nil
	}
	return images[0].Id, nil
}

// attach joins a container with an AttachStart.
func (c *CLI) attach(ctx context.Context, start *wherryv1.AttachStart, s session) (int, error) {
	api, err := c.API(ctx)
	if err != nil {
		return exitFailed, err
	}
	ctx, cancel := context.WithCancel(ctx)
	start.Size = c.size(s.tty)
	stream := api.Containers.Attach(ctx)
	defer hangUp(stream, cancel)
	if err := stream.Send(&wherryv1.AttachRequest{Message: &wherryv1.AttachRequest_Start{Start: start}}); err != nil {
		_, err := stream.Receive() // says why
		return exitFailed, apiError(ctx, err)
	}
	return c.interact(ctx, attachWire(stream), s)
}

// hangUp tells the machine that nobody listens any more. Before the machine has
// answered anything the end of the context does that, afterwards only the end
// of the answer: a context alone is then noticed with the next message sent.
func hangUp(stream interface{ CloseResponse() error }, cancel func()) {
	cancel()
	_ = stream.CloseResponse() // an error means that the stream has ended already
}

// Attach joins a running container.
func (c *CLI) Attach(ctx context.Context, ref string, noStdin, sigProxy bool, detachKeys string) error {
	s, err := c.sessionOf(ctx, ref, detachKeys)
	if err != nil {
		return err
	}
	s.stdin = s.stdin && !noStdin
	s.sigProxy = sigProxy
	return c.end(c.attach(ctx, &wherryv1.AttachStart{Container: ref, Stdin: s.stdin}, s))
}

// sessionOf is a session as the container was created for.
func (c *CLI) sessionOf(ctx context.Context, ref, detachKeys string) (session, error) {
	keys, err := terminal.ParseDetachKeys(detachKeys)
	if err != nil {
		return session{}, err
	}
	api, err := c.API(ctx)
	if err != nil {
		return session{}, err
	}
	res, err := unary(ctx, api.Containers.InspectContainer, &wherryv1.InspectContainerRequest{Container: ref})
	if err != nil {
		return session{}, err
	}
	return session{tty: res.Spec.GetTty(), stdin: res.Spec.GetStdin(), detach: keys}, nil
}

// Start starts containers; with attach, one of them, and stays with it.
func (c *CLI) Start(ctx context.Context, refs []string, attach, interactive bool, detachKeys string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if !attach && !interactive {
		return c.each(ctx, refs, func(ctx context.Context, ref string) (string, error) {
			return ref, c.startOne(ctx, api, ref)
		})
	}
	if len(refs) != 1 {
		return errors.New("start -a and -i take one container")
	}
	s, err := c.sessionOf(ctx, refs[0], detachKeys)
	if err != nil {
		return err
	}
	s.stdin = s.stdin && interactive
	s.sigProxy = true
	if err := c.reserveFor(ctx, refs[0]); err != nil {
		return err
	}
	return c.end(c.attach(ctx, &wherryv1.AttachStart{Container: refs[0], Stdin: s.stdin, Start: true}, s))
}

func (c *CLI) startOne(ctx context.Context, api *client.Client, ref string) error {
	if err := c.reserveFor(ctx, ref); err != nil {
		return err
	}
	_, err := unary(ctx, api.Containers.StartContainer, &wherryv1.StartContainerRequest{Container: ref})
	return err
}

// Exec runs a command in a container.
func (c *CLI) Exec(ctx context.Context, start *wherryv1.ExecStart, detachKeys string) error {
	keys, err := terminal.ParseDetachKeys(detachKeys)
	if err == nil && !start.Detach {
		err = c.needTerminal(start.Tty, start.Stdin)
	}
	if err != nil {
		return err
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	start.Size = c.size(start.Tty)
	stream := api.Containers.Exec(ctx)
	defer hangUp(stream, cancel)
	if err := stream.Send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Start{Start: start}}); err != nil {
		_, err := stream.Receive() // says why
		return exitWith(1, apiError(ctx, err))
	}
	if start.Detach {
		return exitWith(1, c.awaitStarted(ctx, execWire(stream)))
	}
	code, err := c.interact(ctx, execWire(stream), session{tty: start.Tty, stdin: start.Stdin, sigProxy: true, detach: keys})
	var api1 *APIError
	if errors.As(err, &api1) {
		return exitWith(1, err)
	}
	return c.end(code, err)
}

// awaitStarted returns when a detached command runs.
func (c *CLI) awaitStarted(ctx context.Context, w wire) error {
	m, _, err := w.receive()
	if err != nil {
		return apiError(ctx, err)
	}
	if code := m.GetExitCode(); code != 0 {
		return &ExitError{Code: int(code)}
	}
	return nil
}
