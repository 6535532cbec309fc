// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// stage says how far a process came; what is written down is always true of
// a shim that died right after.
type stage string

const (
	stageCreating stage = "creating" // nobody was told of it
	stageReady    stage = "ready"
)

// record is what this process has to know of a process after its own death,
// beside libcontainer's state. It is written before the process can run.
type record struct {
	Stage       stage  `json:"stage"`
	Bundle      string `json:"bundle,omitempty"`
	IO          names  `json:"io"`
	StdinClosed bool   `json:"stdin_closed,omitempty"`
	Pid         int    `json:"pid,omitempty"` // execs: libcontainer keeps the container's own
	Start       uint64 `json:"start,omitempty"`
	Exit        *exit  `json:"exit,omitempty"`
}

// exit is how a process ended: its code, or 128 plus the signal's number.
type exit struct {
	Code uint32    `json:"code"`
	At   time.Time `json:"at"`
}

// write replaces the record at once. There is no sync: it lives in memory and ends with the boot.
func (r *record) write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("record a process: %w", err)
	}
	return os.Rename(path+".new", path)
}

func readRecord(path string) (record, error) {
	var r record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

const recordSuffix = ".json"

// initRecord is the name of the record of a container's first process; those
// of execs begin with execPrefix.
const (
	initRecord = "init" + recordSuffix
	execPrefix = "exec-"
)

// taskDir holds the records of one container's processes.
func (s *Server) taskDir(id string) string { return filepath.Join(s.dir, "tasks", id) }

func (s *Server) recordPath(id, exec string) string {
	if exec == "" {
		return filepath.Join(s.taskDir(id), initRecord)
	}
	return filepath.Join(s.taskDir(id), execPrefix+exec+recordSuffix)
}

// execNames lists the execs that have records.
func (s *Server) execNames(id string) ([]string, error) {
	entries, err := os.ReadDir(s.taskDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), execPrefix); ok {
			if name, ok = strings.CutSuffix(name, recordSuffix); ok {
				out = append(out, name)
			}
		}
	}
	return out, err
}
