// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
)

// place is one side of cp: a path of a container, or of this computer.
type place struct {
	container string
	path      string
}

// parsePlace reads CONTAINER:PATH or PATH. A path with a colon of its own
// begins with a slash or a dot, as docker has it.
func parsePlace(text string) place {
	if strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".") {
		return place{path: text}
	}
	container, p, ok := strings.Cut(text, ":")
	if !ok {
		return place{path: text}
	}
	if !strings.HasPrefix(p, "/") {
		p = "/" + p // containers have no current directory
	}
	return place{container, p}
}

// Copy copies files between this computer and a container, in the direction
// that the arguments say. "-" is a tar stream on input or output.
func (c *CLI) Copy(ctx context.Context, from, to string, quiet bool) error {
	src, dst := parsePlace(from), parsePlace(to)
	switch {
	case src.container == "" && dst.container == "":
		return errors.New("cp: one side must be CONTAINER:PATH")
	case src.container != "" && dst.container != "":
		return errors.New("cp: copying between containers goes through this computer: copy twice")
	case src.container != "":
		return c.copyFrom(ctx, src, dst.path, quiet)
	}
	return c.copyTo(ctx, src.path, dst, quiet)
}

// remoteKind says what is at a path of a container.
type remoteKind int

const (
	remoteNothing remoteKind = iota
	remoteFile
	remoteDirectory
)

// stat looks at a path of a container: at the first entry of its archive.
func (c *CLI) stat(ctx context.Context, p place) (remoteKind, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := c.archiveOf(ctx, p)
	if err != nil {
		return remoteNothing, err
	}
	defer r.Close()
	h, err := tar.NewReader(r).Next()
	switch {
	case codeOf(err) == connect.CodeNotFound:
		return remoteNothing, nil
	case errors.Is(err, io.EOF): // an empty directory's content
		return remoteDirectory, nil
	case err != nil:
		return remoteNothing, err
	case h.Typeflag == tar.TypeDir:
		return remoteDirectory, nil
	}
	return remoteFile, nil
}

// archiveOf is the tar stream of a path of a container.
func (c *CLI) archiveOf(ctx context.Context, p place) (io.ReadCloser, error) {
	api, err := c.API(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := api.Containers.CopyFrom(ctx, connect.NewRequest(&wherryv1.CopyFromRequest{Container: p.container, Path: p.path}))
	if err != nil {
		return nil, apiError(ctx, err)
	}
	return &archiveReader{ctx: ctx, stream: stream}, nil
}

type archiveReader struct {
	ctx    context.Context // of the call, which this lives as long as
	stream *connect.ServerStreamForClient[wherryv1.CopyFromResponse]
	rest   []byte
}

func (a *archiveReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if !a.stream.Receive() {
			if err := a.stream.Err(); err != nil {
				return 0, apiError(a.ctx, err)
			}
			return 0, io.EOF
		}
		a.rest = a.stream.Msg().Tar
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

func (a *archiveReader) Close() error { return a.stream.Close() }

// copyTo follows docker's rules for the name at the other side: into a
// directory that exists, else to that very name.
func (c *CLI) copyTo(ctx context.Context, from string, to place, quiet bool) error {
	if from == "-" {
		return c.sendArchive(ctx, to.container, to.path, c.In, quiet)
	}
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	kind, err := c.stat(ctx, place{to.container, path.Clean(to.path)})
	if err != nil {
		return err
	}
	contents := info.IsDir() && strings.HasSuffix(filepath.ToSlash(from), "/.")
	dir, name := path.Dir(path.Clean(to.path)), path.Base(path.Clean(to.path))
	switch {
	case kind == remoteDirectory && contents:
		dir, name = to.path, "."
	case kind == remoteDirectory:
		absolute, err := filepath.Abs(from)
		if err != nil {
			return fmt.Errorf("cp: %w", err)
		}
		dir, name = to.path, filepath.Base(absolute)
	case kind == remoteFile && info.IsDir():
		return fmt.Errorf("cp: %s is a file, %s is a directory", to.path, from)
	case kind == remoteNothing && strings.HasSuffix(to.path, "/") && !info.IsDir():
		return fmt.Errorf("cp: the directory %s does not exist in the container", to.path)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(packFiles(w, from, name)) }()
	defer r.Close()
	return c.sendArchive(ctx, to.container, dir, r, quiet)
}

func (c *CLI) sendArchive(ctx context.Context, container, dir string, archive io.Reader, quiet bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	stream := api.Containers.CopyTo(ctx)
	p := newByteProgress(c, "copying")
	defer p.clear()
	start := &wherryv1.CopyToStart{Container: container, Path: dir}
	err = stream.Send(&wherryv1.CopyToRequest{Message: &wherryv1.CopyToRequest_Start{Start: start}})
	if err == nil {
		err = sendChunks(archive, func(chunk []byte) error {
			if !quiet {
				p.add(len(chunk))
			}
			return stream.Send(&wherryv1.CopyToRequest{Message: &wherryv1.CopyToRequest_Tar{Tar: chunk}})
		})
	}
	var source sourceError
	if errors.As(err, &source) {
		return fmt.Errorf("cp: %w", source.error)
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		return apiError(ctx, err)
	}
	return nil
}

// packFiles writes a file or a directory's tree as tar under another name.
func packFiles(w io.Writer, root, name string) error {
	t := tar.NewWriter(w)
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		if file == root {
			// What is named may be a link: it is followed. Links inside are copied as links.
			info, err := os.Stat(root)
			if err != nil {
				return err
			}
			return packFile(t, file, name, info)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return packFile(t, file, path.Join(name, filepath.ToSlash(rel)), info)
	})
	if err != nil {
		return err
	}
	return t.Close()
}

func packFile(t *tar.Writer, file, name string, info fs.FileInfo) error {
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		var err error
		if link, err = os.Readlink(file); err != nil {
			return err
		}
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil // sockets, devices: they mean nothing elsewhere
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = name
	if info.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", "" // users of this computer are nobody there
	if err := t.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(t, f, info.Size()); err != nil {
		return fmt.Errorf("%s changed while it was read: %w", file, err)
	}
	return nil
}

// copyFrom writes a container's files to this computer.
func (c *CLI) copyFrom(ctx context.Context, from place, to string, quiet bool) error {
	r, err := c.archiveOf(ctx, from)
	if err != nil {
		return err
	}
	defer r.Close()
	p := newByteProgress(c, "copying")
	defer p.clear()
	in := io.Reader(r)
	if !quiet {
		in = io.TeeReader(r, countWriter{p})
	}
	if to == "-" {
		if isTerminal(c.Out) {
			return errors.New("cp: a tar stream is not for a terminal: send it to a file or a program")
		}
		_, err := io.Copy(c.Out, in)
		return err
	}
	return unpackFiles(in, from.path, to, c.notef)
}

type countWriter struct{ p *byteProgress }

func (w countWriter) Write(b []byte) (int, error) {
	w.p.add(len(b))
	return len(b), nil
}

// target is where the first name of an archive goes: into a directory that
// exists under its own name, else to the very name asked for.
func target(source, to string) (dir, name string, err error) {
	info, err := os.Stat(to)
	switch {
	case err == nil && info.IsDir():
		if strings.HasSuffix(source, "/.") || path.Clean(source) == "/" {
			return to, ".", nil
		}
		return to, path.Base(path.Clean(source)), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", fmt.Errorf("cp: %w", err)
	case err != nil && strings.HasSuffix(to, string(filepath.Separator)):
		return "", "", fmt.Errorf("cp: the directory %s does not exist", to)
	}
	return filepath.Dir(to), filepath.Base(to), nil
}

// unpackFiles writes an archive whose entries begin with source's last element,
// which becomes what target says. Nothing lands outside that directory.
func unpackFiles(r io.Reader, source, to string, note func(string, ...any)) error {
	dir, name, err := target(source, to)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cp: %w", err)
	}
	defer root.Close()
	contents := strings.HasSuffix(source, "/.") || path.Clean(source) == "/"
	var modes []tar.Header // of directories, set when all is inside
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return setModes(root, modes)
		}
		if err != nil {
			return err
		}
		entry := path.Clean("/" + h.Name)[1:]
		if !contents {
			_, entry, _ = strings.Cut(entry, "/")
		}
		h.Name = path.Join(name, entry)
		if h.Typeflag == tar.TypeLink && !contents {
			_, linked, _ := strings.Cut(path.Clean("/" + h.Linkname)[1:], "/")
			h.Linkname = path.Join(name, linked)
		}
		if h.Typeflag == tar.TypeDir {
			modes = append(modes, *h)
		}
		if err := unpackFile(root, h, t, note); err != nil {
			return fmt.Errorf("cp: %w", err)
		}
	}
}

func unpackFile(root *os.Root, h *tar.Header, r io.Reader, note func(string, ...any)) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if h.Name == "." {
			return nil
		}
		return root.MkdirAll(h.Name, 0o700)
	case tar.TypeReg:
		return unpackRegular(root, h, r)
	case tar.TypeSymlink:
		return replace(root, h.Name, func() error { return root.Symlink(h.Linkname, h.Name) })
	case tar.TypeLink:
		return replace(root, h.Name, func() error { return root.Link(h.Linkname, h.Name) })
	}
	note("left out: %s is neither a file, a directory nor a link", h.Name)
	return nil
}

// replace makes something where a file may be already.
func replace(root *os.Root, name string, make func() error) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return make()
}

func unpackRegular(root *os.Root, h *tar.Header, r io.Reader) error {
	// A link that is there is replaced, not followed.
	if info, err := root.Lstat(h.Name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return fmt.Errorf("%s is a directory here and a file there", h.Name)
		}
		if err := root.Remove(h.Name); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	// Set-id bits are left out: their user is another one here.
	err = errors.Join(err, f.Chmod(fs.FileMode(h.Mode).Perm()), f.Close())
	if err != nil {
		return err
	}
	return root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

func setModes(root *os.Root, list []tar.Header) error {
	for i := len(list) - 1; i >= 0; i-- {
		h := list[i]
		if h.Name == "." {
			continue
		}
		if err := errors.Join(root.Chmod(h.Name, fs.FileMode(h.Mode).Perm()), root.Chtimes(h.Name, h.ModTime, h.ModTime)); err != nil {
			return fmt.Errorf("cp: %w", err)
		}
	}
	return nil
}
