// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/image"
)

// wherry is this checkout's build. Its measured boot is the second one of a
// disk: the first formats the disk, takes the image and makes a container that
// the engine brings back by itself.
type wherry struct {
	image string
	key   ed25519.PrivateKey
	port  int
}

func (w *wherry) build(context.Context) error {
	for _, part := range []string{"kernel", "initramfs"} {
		if _, err := os.Stat(filepath.Join(w.image, part)); err != nil {
			return fmt.Errorf("%w: run `make build` first", err)
		}
	}
	var err error
	if _, w.key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return err
	}
	w.port, err = freePort()
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (w *wherry) spec(dir string) (vmSpec, error) {
	public, err := ssh.NewPublicKey(w.key.Public())
	if err != nil {
		return vmSpec{}, err
	}
	config := filepath.Join(dir, "config")
	document := fmt.Sprintf("version: v1\nname: bench\naccess:\n  keys:\n  - key: %s\n", bytes.TrimSpace(ssh.MarshalAuthorizedKey(public)))
	return vmSpec{
		name: "wherry", kernel: filepath.Join(w.image, "kernel"), initramfs: filepath.Join(w.image, "initramfs"),
		disk: filepath.Join(dir, "disk.qcow2"), config: config, cmdline: "console=ttyS0 quiet " + commonCmdline,
		forwards: []string{fmt.Sprintf("tcp:127.0.0.1:%d-:9473", w.port)},
	}, os.WriteFile(config, []byte(document), 0o600)
}

func (w *wherry) measure(ctx context.Context, dir string) (figures, error) {
	manifest, err := image.ReadManifest(w.image)
	if err != nil {
		return figures{}, err
	}
	f := figures{
		BytesKernel: size(filepath.Join(w.image, "kernel")), BytesInitramfs: size(filepath.Join(w.image, "initramfs")),
		BytesRoot: size(filepath.Join(w.image, "root.squashfs")), BytesModules: manifest.Modules.Bytes,
	}
	s, err := w.spec(dir)
	if err != nil {
		return f, err
	}
	if err := command(ctx, "qemu-img", "create", "-q", "-f", "qcow2", s.disk, "3G"); err != nil {
		return f, err
	}
	if err := w.firstBoot(ctx, filepath.Join(dir, "first"), s); err != nil {
		return f, fmt.Errorf("first boot: %w", err)
	}
	v, err := startVM(ctx, filepath.Join(dir, "second"), s)
	if err != nil {
		return f, err
	}
	defer v.kill()
	if err := w.boot(ctx, v, &f); err != nil {
		return f, err
	}
	c, err := w.dial(ctx)
	if err != nil {
		return f, err
	}
	defer c.Close()
	return f, w.load(ctx, v, c, &f)
}

func (w *wherry) dial(ctx context.Context) (*client.Client, error) {
	// The machine's key is not checked: it is on a loopback port of this process's making.
	return client.Dial(ctx, client.Options{Address: fmt.Sprintf("127.0.0.1:%d", w.port), Identity: w.key, VerifyKey: func(string) error { return nil }})
}

func ready(ctx context.Context, v *vm) (uint64, error) {
	err := v.until(ctx, "the API", func(_, console string) bool {
		_, after, ok := strings.Cut(console, "wherry: ready ")
		return ok && strings.Contains(after, "\n")
	})
	if err != nil {
		return 0, err
	}
	return v.instructions()
}

func (w *wherry) firstBoot(ctx context.Context, dir string, s vmSpec) error {
	v, err := startVM(ctx, dir, s)
	if err != nil {
		return err
	}
	defer v.kill()
	if _, err := ready(ctx, v); err != nil {
		return err
	}
	c, err := w.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := loadProbe(ctx, c); err != nil {
		return err
	}
	if _, err := create(ctx, c, "first", wherryv1.RestartPolicy_KIND_ALWAYS, "sleep"); err != nil {
		return err
	}
	if _, err := v.mark(ctx, "C", 1); err != nil {
		return err
	}
	if _, err := c.Machine.PowerOff(ctx, connect.NewRequest(&wherryv1.PowerOffRequest{})); err != nil {
		return err
	}
	select {
	case <-v.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("power off: %w\n%s", ctx.Err(), v.tail())
	}
}

func loadProbe(ctx context.Context, c *client.Client) error {
	var archive bytes.Buffer
	if err := probeImage(&archive); err != nil {
		return err
	}
	s := c.Images.LoadImages(ctx)
	if err := s.Send(&wherryv1.LoadImagesRequest{Archive: archive.Bytes()}); err != nil {
		_, err := s.CloseAndReceive()
		return errors.Join(errors.New("send the image"), err)
	}
	_, err := s.CloseAndReceive()
	return err
}

// create makes a container from the probe and starts it.
func create(ctx context.Context, c *client.Client, name string, restart wherryv1.RestartPolicy_Kind, args ...string) (string, error) {
	made, err := c.Containers.CreateContainer(ctx, connect.NewRequest(&wherryv1.CreateContainerRequest{Spec: &wherryv1.ContainerSpec{
		Name: name, Image: imageName, Command: args, CapAdd: []string{"SYS_RAWIO"}, Restart: &wherryv1.RestartPolicy{Kind: restart},
	}}))
	if err != nil {
		return "", err
	}
	_, err = c.Containers.StartContainer(ctx, connect.NewRequest(&wherryv1.StartContainerRequest{Container: made.Msg.Id}))
	return made.Msg.Id, err
}

func remove(ctx context.Context, c *client.Client, container string) error {
	_, err := c.Containers.RemoveContainer(ctx, connect.NewRequest(&wherryv1.RemoveContainerRequest{Container: container, Force: true}))
	return err
}

// boot counts until the API answers and until the container that was there
// before runs, whichever comes first.
func (w *wherry) boot(ctx context.Context, v *vm, f *figures) error {
	isReady := func(console string) bool { return strings.Contains(console, "wherry: ready ") }
	isFirst := func(marks string) bool { return strings.Contains(marks, "C") }
	for f.InstructionsReady == 0 || f.InstructionsFirstContainer == 0 {
		var gotReady, gotFirst bool
		err := v.until(ctx, "ready and the first container", func(marks, console string) bool {
			gotReady = f.InstructionsReady == 0 && isReady(console)
			gotFirst = f.InstructionsFirstContainer == 0 && isFirst(marks)
			return gotReady || gotFirst
		})
		if err != nil {
			return err
		}
		n, err := v.instructions()
		if err != nil {
			return err
		}
		if gotReady {
			f.InstructionsReady = n
		}
		if gotFirst {
			f.InstructionsFirstContainer = n
		}
	}
	return nil
}

// settle is how long a machine is left alone before its memory is read.
const settle = 20 * time.Second

func usedBy(ctx context.Context, c *client.Client) (float64, error) {
	time.Sleep(settle)
	s, err := c.Machine.GetStatus(ctx, connect.NewRequest(&wherryv1.GetStatusRequest{}))
	if err != nil {
		return 0, err
	}
	return float64(s.Msg.Memory.TotalBytes-s.Msg.Memory.AvailableBytes) / 1e6, nil
}

func (w *wherry) load(ctx context.Context, v *vm, c *client.Client, f *figures) error {
	if err := remove(ctx, c, "first"); err != nil {
		return err
	}
	var err error
	if f.IdleMB, err = usedBy(ctx, c); err != nil {
		return err
	}
	before, err := v.instructions()
	if err != nil {
		return err
	}
	for range starts {
		if err := once(ctx, c); err != nil {
			return err
		}
	}
	after, err := v.instructions()
	if err != nil {
		return err
	}
	f.ContainerStartCPUMS = float64(after-before) / starts / 1e6
	for i := range idleContainers {
		if _, err := create(ctx, c, fmt.Sprint("idle", i), wherryv1.RestartPolicy_KIND_NO, "sleep"); err != nil {
			return err
		}
	}
	loaded, err := usedBy(ctx, c)
	f.ContainerMB = (loaded - f.IdleMB) / idleContainers
	return err
}

// once is create → start → exit → delete, as `wherry run --rm` does it.
func once(ctx context.Context, c *client.Client) error {
	id, err := create(ctx, c, "", wherryv1.RestartPolicy_KIND_NO)
	if err != nil {
		return err
	}
	exit, err := c.Containers.WaitContainer(ctx, connect.NewRequest(&wherryv1.WaitContainerRequest{Container: id}))
	if err != nil {
		return err
	}
	if exit.Msg.ExitCode != 7 {
		return fmt.Errorf("the probe exited with %d, want 7", exit.Msg.ExitCode)
	}
	return remove(ctx, c, id)
}
