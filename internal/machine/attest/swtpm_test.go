// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/tcglog"
	"wherry.example/wherry/internal/linux/tpm"
)

// software is a TPM in software, with what was measured into it.
type software struct {
	socket string
	log    bytes.Buffer
}

func newTPM(t *testing.T) *software {
	t.Helper()
	dir := t.TempDir()
	s := &software{socket: filepath.Join(dir, "s")}
	cmd := exec.CommandContext(t.Context(), "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+s.socket, "--ctrl", "type=unixio,path="+filepath.Join(dir, "c"), "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run tools/setup.sh test", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	head := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	head = append(binary.LittleEndian.AppendUint32(head, 1), 0x0b, 0, 32, 0, 0)
	s.put(uint32(0), uint32(tcglog.NoAction), [20]byte{}, uint32(len(head)), head)
	return s
}

func (s *software) put(values ...any) {
	for _, v := range values {
		_ = binary.Write(&s.log, binary.LittleEndian, v) // into memory
	}
}

func (s *software) dial() (net.Conn, error) {
	var conn net.Conn
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if conn, err = net.Dial("unix", s.socket); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (s *software) open() (TPM, error) {
	conn, err := s.dial()
	if err != nil {
		return nil, err
	}
	return tpm.New(conn), nil
}

// measure does what firmware does: extends a register and notes that in the log.
func (s *software) measure(t *testing.T, pcr, kind uint32, digest [32]byte, data []byte) {
	t.Helper()
	s.put(pcr, kind, uint32(1), uint16(0x0b), digest, uint32(len(data)), data)
	command := binary.BigEndian.AppendUint32([]byte{0x80, 2}, 10+4+13+4+2+32)
	command = binary.BigEndian.AppendUint32(command, 0x182) // TPM2_PCR_Extend
	command = binary.BigEndian.AppendUint32(command, pcr)
	command = append(command, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0x0b)
	conn, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make([]byte, 4096)
	if _, err := conn.Write(append(command, digest[:]...)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(answer); err != nil || n < 10 || binary.BigEndian.Uint32(answer[6:]) != 0 {
		t.Fatalf("extend register %d: %x, %v", pcr, answer[:n], err)
	}
}

func (s *software) measureData(t *testing.T, pcr, kind uint32, data []byte) {
	t.Helper()
	s.measure(t, pcr, kind, sha256.Sum256(data), data)
}

// variable is a UEFI_VARIABLE_DATA of UEFI's own name space.
func variable(name string, data []byte) []byte {
	var b bytes.Buffer
	b.WriteString("\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c")
	_ = binary.Write(&b, binary.LittleEndian, []uint64{uint64(len(name)), uint64(len(data))}) // into memory
	for _, r := range name {
		b.Write([]byte{byte(r), 0})
	}
	b.Write(data)
	return b.Bytes()
}
