// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"io/fs"
	"math"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxPasswd bounds /etc/passwd and /etc/group of an image.
const maxPasswd = 4 << 20

// lookUpUser finds who a container or a command in it runs as, in the files of
// its own root. The specification is docker's: name|uid[:group|gid].
func lookUpUser(root *rootDir, spec string, extra []string) (u specs.User, home string, err error) {
	passwd, err := readUserFile(root, "/etc/passwd")
	if err != nil {
		return u, "", err
	}
	group, err := readUserFile(root, "/etc/group")
	if err != nil {
		return u, "", err
	}
	return resolveUser(spec, extra, passwd, group)
}

// readUserFile treats a missing file as an empty one: images of a single
// program have none.
func readUserFile(root *rootDir, name string) ([]byte, error) {
	b, err := root.readFile(name, maxPasswd)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errorf(KindInvalid, "read %s of the container: %w", name, err)
	}
	return b, nil
}

func resolveUser(spec string, extra []string, passwd, group []byte) (u specs.User, home string, err error) {
	e, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return u, "", errorf(KindInvalid, "user %.100q is not in the container's /etc/passwd or /etc/group: %w", spec, err)
	}
	if e.Uid < 0 || e.Uid > math.MaxInt32 || e.Gid < 0 || e.Gid > math.MaxInt32 {
		return u, "", errorf(KindInvalid, "user %.100q: id out of range", spec)
	}
	u.UID, u.GID = uint32(e.Uid), uint32(e.Gid)
	groups := e.Sgids
	if len(extra) > 0 {
		more, err := user.GetAdditionalGroups(extra, bytes.NewReader(group))
		if err != nil {
			return u, "", errorf(KindInvalid, "groups %.200q: %w", extra, err)
		}
		groups = append(groups, more...)
	}
	seen := map[uint32]bool{u.GID: true}
	u.AdditionalGids = []uint32{u.GID}
	for _, g := range groups {
		if id := uint32(g); !seen[id] {
			seen[id] = true
			u.AdditionalGids = append(u.AdditionalGids, id)
		}
	}
	return u, e.Home, nil
}
