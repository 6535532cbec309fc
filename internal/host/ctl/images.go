// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"wherry.example/wherry/api/wherryv1"
)

// ImageListOptions are the flags of image ls.
type ImageListOptions struct {
	Name           string
	Quiet, NoTrunc bool
	Format         string
}

type imageRow struct {
	Repository, Tag, ID, Digest, CreatedSince, Size, Platform string
}

// Images lists images, a line for each name.
func (c *CLI) Images(ctx context.Context, o ImageListOptions) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Images.ListImages, &wherryv1.ListImagesRequest{NameFilter: o.Name})
	if err != nil {
		return err
	}
	slices.SortStableFunc(res.Images, func(a, b *wherryv1.Image) int { return b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime()) })
	if c.JSON || o.Format == "json" {
		return printList(c, res.Images)
	}
	rows := c.imageRows(res.Images, o.NoTrunc)
	switch {
	case o.Quiet:
		var ids []string
		for _, r := range rows {
			ids = append(ids, r.ID)
		}
		for _, id := range slices.Compact(ids) {
			fmt.Fprintln(c.Out, id)
		}
		return nil
	case o.Format != "" && o.Format != "table":
		return printTemplate(c, o.Format, rows)
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.Repository, r.Tag, r.ID, r.CreatedSince, r.Platform, r.Size})
	}
	return table(c.Out, "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tPLATFORM\tSIZE", lines)
}

func (c *CLI) imageRows(list []*wherryv1.Image, whole bool) []imageRow {
	var rows []imageRow
	for _, x := range list {
		names := x.Names
		if len(names) == 0 {
			names = []string{"<none>:<none>"}
		}
		id := x.Id
		if !whole {
			id = shortID(id)
		}
		for _, n := range names {
			repository, tag := splitTag(n)
			rows = append(rows, imageRow{repository, tag, id, x.Digest, c.age(x.CreatedAt), size(max(x.UnpackedBytes, x.Bytes)), x.Platform})
		}
	}
	return rows
}

// splitTag cuts a name into what people read as repository and tag. The
// default registry is left out, as docker does.
func splitTag(name string) (repository, tag string) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
	if repo, _, ok := strings.Cut(name, "@"); ok {
		return repo, "<none>"
	}
	i := strings.LastIndexByte(name, ':')
	if i < 0 || strings.Contains(name[i:], "/") {
		return name, "<none>"
	}
	return name[:i], name[i+1:]
}

// Pull fetches images.
func (c *CLI) Pull(ctx context.Context, names []string, platform string) error {
	for _, n := range names {
		if err := c.pull(ctx, n, platform, false); err != nil {
			return err
		}
	}
	return nil
}

// pull fetches one image with progress. With missingOnly it says nothing when
// the image is there.
func (c *CLI) pull(ctx context.Context, name, platform string, missingOnly bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	auth, err := registryAuth(ctx, name)
	if err != nil {
		return err
	}
	p := newPullProgress(c, name)
	defer p.clear()
	req := &wherryv1.PullImageRequest{Image: name, Auth: auth, MissingOnly: missingOnly, Platform: platform}
	var last *wherryv1.Image
	err = serverStream(ctx, api.Images.PullImage, req, func(m *wherryv1.PullImageResponse) error {
		p.update(m)
		if m.Image != nil {
			last = m.Image
		}
		return nil
	})
	p.clear()
	if err != nil {
		return fmt.Errorf("pull %s: %w", name, err)
	}
	if !missingOnly {
		if c.JSON && last != nil {
			return c.printMessage(last)
		}
		c.notef("%s: %s", name, shortDigest(last))
	} else if p.shown {
		c.notef("pulled %s", name)
	}
	return nil
}

func shortDigest(image *wherryv1.Image) string {
	if image.GetDigest() == "" {
		return "done"
	}
	return image.Digest
}

// Load reads an archive of images from a file or, named "-", the input.
func (c *CLI) Load(ctx context.Context, path string) error {
	var in io.Reader = c.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("load images: %w", err)
		}
		defer f.Close()
		in = f
	} else if isTerminal(c.In) {
		return errors.New("load reads an archive: name a file with -i, or pipe one in")
	}
	images, err := c.load(ctx, in, "loading")
	if err != nil {
		return err
	}
	if c.JSON {
		return printList(c, images)
	}
	for _, x := range images {
		for _, n := range x.Names {
			fmt.Fprintln(c.Out, n)
		}
		if len(x.Names) == 0 {
			fmt.Fprintln(c.Out, x.Id)
		}
	}
	return nil
}

// uploadChunk is the size of the messages that archives are cut into.
const uploadChunk = 512 << 10

func (c *CLI) load(ctx context.Context, archive io.Reader, what string) ([]*wherryv1.Image, error) {
	api, err := c.API(ctx)
	if err != nil {
		return nil, err
	}
	stream := api.Images.LoadImages(ctx)
	p := newByteProgress(c, what)
	defer p.clear()
	sendErr := sendChunks(archive, func(chunk []byte) error {
		p.add(len(chunk))
		return stream.Send(&wherryv1.LoadImagesRequest{Archive: chunk})
	})
	if sendErr != nil && !errors.Is(sendErr, io.EOF) {
		return nil, fmt.Errorf("load images: %w", sendErr)
	}
	res, err := stream.CloseAndReceive()
	if err != nil {
		return nil, apiError(ctx, err)
	}
	return res.Msg.Images, nil
}

// errSource marks an error of reading what is sent, not of sending.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// sendChunks cuts a reader into messages. io.EOF is the stream's: the other
// side has ended it and says why when asked.
func sendChunks(r io.Reader, send func([]byte) error) error {
	for {
		buf := make([]byte, uploadChunk)
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return sourceError{err}
		}
	}
}

// Tag gives an image a further name.
func (c *CLI) Tag(ctx context.Context, image, name string) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	_, err = unary(ctx, api.Images.TagImage, &wherryv1.TagImageRequest{Image: image, Name: name})
	return err
}

// RemoveImages removes images or names of images.
func (c *CLI) RemoveImages(ctx context.Context, names []string, force bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	return c.each(ctx, names, func(ctx context.Context, name string) (string, error) {
		res, err := unary(ctx, api.Images.RemoveImage, &wherryv1.RemoveImageRequest{Image: name, Force: force})
		if err != nil {
			return "", err
		}
		var lines []string
		for _, n := range res.Untagged {
			lines = append(lines, "Untagged: "+n)
		}
		for _, n := range res.Deleted {
			lines = append(lines, "Deleted: "+n)
		}
		return strings.Join(lines, "\n"), nil
	})
}

// PruneImages removes images that no container uses: those without a name, or all.
func (c *CLI) PruneImages(ctx context.Context, all bool) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Images.PruneImages, &wherryv1.PruneImagesRequest{All: all})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	for _, d := range res.Deleted {
		fmt.Fprintln(c.Out, d)
	}
	c.notef("freed %s", size(res.FreedBytes))
	return nil
}
