// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
)

// stage says whether the container exists as a whole. It is finer than the
// phase that users see, and only recovery and removal look at it.
type stage string

const (
	stageCreating stage = "creating" // half made: recovery removes it
	stageReady    stage = "ready"
	stageRemoving stage = "removing" // half removed: recovery removes the rest
)

// record is what the engine keeps of a container, as record.json.
type record struct {
	ID        string
	Name      string
	System    bool
	CreatedAt time.Time
	Spec      *wherryv1.ContainerSpec // as asked for
	Effective *wherryv1.ContainerSpec // with the image's values filled in
	State     *wherryv1.ContainerState
	Image     imageFacts
	Stage     stage
	// WantRunning is the desired state: what the last user's call or the
	// container's own end asks for. It outlives crash and reboot.
	WantRunning bool
	// Failures counts ends that the restart policy acted on since the last
	// good run or user's start; on-failure:N is measured against it.
	Failures uint32
	// Returns says that what is restarting did not fail: it waits for its turn after the machine was
	// started. It is not written: the release before this one reads the same records, and a new process finds out anew.
	Returns bool
	// BootID is the boot in which the container was last started.
	BootID    string
	Endpoints []*wherryv1.Endpoint
	Ports     []*wherryv1.PortMapping
	Mounts    []*wherryv1.Mount // volumes resolved to their names
	Anonymous []string          // volumes that belong to this container alone
}

// imageFacts is what a container needs of its image after the image is gone.
type imageFacts struct {
	Name    string // familiar name at creation
	ID      string // digest of the configuration
	Digest  string // of the manifest or index that the name pointed at
	ChainID string
	Volumes []string
	Ports   []string
}

// recordFile is the shape of record.json: the messages of the API in their
// JSON form, so that fields may be added to them as the API allows it.
type recordFile struct {
	Version     int             `json:"version"`
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	System      bool            `json:"system,omitempty"`
	CreatedAt   time.Time       `json:"createdAt"`
	Spec        json.RawMessage `json:"spec"`
	Effective   json.RawMessage `json:"effective,omitempty"`
	Container   json.RawMessage `json:"container"` // state, ports, endpoints, mounts
	Image       imageFacts      `json:"image"`
	Stage       stage           `json:"stage"`
	WantRunning bool            `json:"wantRunning"`
	Failures    uint32          `json:"failures,omitempty"`
	BootID      string          `json:"bootID,omitempty"`
	Anonymous   []string        `json:"anonymous,omitempty"`
}

const (
	recordVersion  = 1
	recordName     = "record.json"
	maxRecordBytes = 8 << 20
)

func (r *record) encode() ([]byte, error) {
	f := recordFile{Version: recordVersion, ID: r.ID, Name: r.Name, System: r.System, CreatedAt: r.CreatedAt, Image: r.Image,
		Stage: r.Stage, WantRunning: r.WantRunning, Failures: r.Failures, BootID: r.BootID, Anonymous: r.Anonymous}
	dynamic := &wherryv1.Container{State: r.State, Endpoints: r.Endpoints, Ports: r.Ports, Mounts: r.Mounts}
	for _, m := range []struct {
		to   *json.RawMessage
		from proto.Message
	}{{&f.Spec, r.Spec}, {&f.Effective, r.Effective}, {&f.Container, dynamic}} {
		b, err := protojson.Marshal(m.from)
		if err != nil {
			return nil, err
		}
		*m.to = b
	}
	return json.Marshal(f)
}

func decodeRecord(b []byte) (*record, error) {
	var f recordFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Version != recordVersion {
		return nil, fmt.Errorf("version %d is not known", f.Version)
	}
	r := &record{ID: f.ID, Name: f.Name, System: f.System, CreatedAt: f.CreatedAt, Image: f.Image, Stage: f.Stage,
		WantRunning: f.WantRunning, Failures: f.Failures, BootID: f.BootID, Anonymous: f.Anonymous,
		Spec: &wherryv1.ContainerSpec{}, Effective: &wherryv1.ContainerSpec{}}
	var dynamic wherryv1.Container
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	for _, m := range []struct {
		from json.RawMessage
		to   proto.Message
	}{{f.Spec, r.Spec}, {f.Effective, r.Effective}, {f.Container, &dynamic}} {
		if len(m.from) == 0 {
			continue
		}
		if err := lenient.Unmarshal(m.from, m.to); err != nil {
			return nil, err
		}
	}
	r.State, r.Endpoints, r.Ports, r.Mounts = dynamic.State, dynamic.Endpoints, dynamic.Ports, dynamic.Mounts
	if r.State == nil {
		r.State = &wherryv1.ContainerState{}
	}
	return r, nil
}

func (r *record) save(dir string) error {
	b, err := r.encode()
	if err != nil {
		return fmt.Errorf("encode record of container %s: %w", r.ID, err)
	}
	return atomicfile.Write(filepath.Join(dir, recordName), b, 0o600)
}

// clone copies what change functions may touch.
func (r *record) clone() record {
	c := *r
	c.State = proto.CloneOf(r.State)
	return c
}

// loadRecords reads every record below dir. Directories without a readable
// record are returned as strays: their container was never acknowledged, or
// the disk lost it; either way nothing can be run from them.
func loadRecords(dir string) (records []*record, strays map[string]error, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	strays = map[string]error{}
	for _, d := range entries {
		r, err := loadRecord(filepath.Join(dir, d.Name()))
		if err == nil && r.ID != d.Name() {
			err = fmt.Errorf("the record is of container %.64q", r.ID)
		}
		if err != nil {
			strays[d.Name()] = err
			continue
		}
		records = append(records, r)
	}
	return records, strays, nil
}

func loadRecord(dir string) (*record, error) {
	path := filepath.Join(dir, recordName)
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxRecordBytes {
		return nil, errors.New("the record is too large")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// absent says that a stray directory held no record at all.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
