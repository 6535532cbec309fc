// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/reflect/protoreflect"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/sshkey"
	"wherry.example/wherry/internal/vmtest"
)

// leastRoles is written down here a second time, for nobody to change the
// machine's own table unawares.
var leastRoles = map[string]string{
	"": "GetVersion",
	"reader": "ListContainers InspectContainer WaitContainer StreamContainerLogs StreamStats StreamEvents ListImages InspectImage" +
		" ListVolumes InspectVolume ListNetworks InspectNetwork WhoAmI GetStatus GetConfig",
	"operator": "CreateContainer StartContainer StopContainer RestartContainer KillContainer PauseContainer UnpauseContainer ListProcesses RemoveContainer Attach Exec CopyTo CopyFrom" +
		" PullImage LoadImages TagImage RemoveImage PruneImages CreateVolume RemoveVolume PruneVolumes CreateNetwork RemoveNetwork PruneNetworks StreamLog",
	"admin": "ApplyConfig Reboot PowerOff",
}

var ranks = map[string]int{"": 0, "reader": 1, "operator": 2, "admin": 3}

// methods are all that the machine offers, by their least role.
func methods(t *testing.T) map[protoreflect.MethodDescriptor]string {
	t.Helper()
	roles := map[string]string{}
	for role, names := range leastRoles {
		for _, n := range strings.Fields(names) {
			roles[n] = role
		}
	}
	out := map[protoreflect.MethodDescriptor]string{}
	for _, f := range []protoreflect.FileDescriptor{
		wherryv1.File_wherry_v1_container_proto, wherryv1.File_wherry_v1_image_proto, wherryv1.File_wherry_v1_machine_proto,
		wherryv1.File_wherry_v1_network_proto, wherryv1.File_wherry_v1_volume_proto,
	} {
		for i := range f.Services().Len() {
			ms := f.Services().Get(i).Methods()
			for j := range ms.Len() {
				role, known := roles[string(ms.Get(j).Name())]
				if !known {
					t.Errorf("%s has no role in this test", ms.Get(j).FullName())
				}
				out[ms.Get(j)] = role
			}
		}
	}
	if len(out) != len(roles) {
		t.Errorf("the API has %d methods, this test knows %d", len(out), len(roles))
	}
	return out
}

// answer is what a call came to; the zero value is success.
type answer struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// stillOpen is a stream that was let in and goes on.
var stillOpen = answer{Code: "open"}

// call makes a call with an empty message, in Connect's JSON.
func call(t *testing.T, c *http.Client, address string, m protoreflect.MethodDescriptor) answer {
	t.Helper()
	streams := m.IsStreamingClient() || m.IsStreamingServer()
	limit := 20 * time.Second // a handshake under emulation, on a busy computer
	if streams {
		limit = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	contentType, body := "application/json", []byte("{}")
	if streams {
		contentType, body = "application/connect+json", append([]byte{0, 0, 0, 0, 2}, body...)
	}
	url := "https://" + address + "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Connect-Protocol-Version", "1")
	resp, err := c.Do(req)
	if streams && errors.Is(err, context.DeadlineExceeded) {
		return stillOpen
	}
	if err != nil {
		t.Fatalf("%s: %v", m.Name(), err)
	}
	defer resp.Body.Close()
	if streams {
		return endOfStream(t, resp.Body)
	}
	var a answer
	if resp.StatusCode != http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Errorf("%s: status %d: %v", m.Name(), resp.StatusCode, err)
		}
	}
	return a
}

// endOfStream reads the first envelope: an end, or a message of somebody who was let in.
func endOfStream(t *testing.T, r io.Reader) answer {
	t.Helper()
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); errors.Is(err, context.DeadlineExceeded) {
		return stillOpen
	} else if err != nil {
		t.Errorf("read a stream: %v", err)
	}
	if head[0]&2 == 0 {
		return stillOpen
	}
	var end struct {
		Error answer `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(r, int64(binary.BigEndian.Uint32(head[1:])))).Decode(&end); err != nil {
		t.Errorf("read the end of a stream: %v", err)
	}
	return end.Error
}

// caller is an HTTP client that shows a certificate, if any.
func caller(t *testing.T, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certificates) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certificates[0], nil
		}}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func certificate(t *testing.T, key crypto.Signer) tls.Certificate {
	t.Helper()
	c, err := sshkey.Certificate(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func keyOf(t *testing.T, u *vmtest.User) crypto.Signer {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(u.Home, ".ssh", "id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key.(crypto.Signer)
}

// strangers all hear the same, whatever they ask.
func (x target) strangers(t *testing.T) {
	_, unknown, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	heard := map[answer]bool{}
	for _, c := range []*http.Client{caller(t), caller(t, certificate(t, unknown))} {
		for m, role := range methods(t) {
			a := call(t, c, x.m.API(), m)
			if role == "" {
				if a != (answer{}) {
					t.Errorf("%s answers a stranger %+v", m.Name(), a)
				}
				continue
			}
			heard[a] = true
			if a.Code != "unauthenticated" {
				t.Errorf("%s answers a stranger %+v", m.Name(), a)
			}
		}
	}
	if len(heard) != 1 {
		t.Errorf("strangers hear different things: %v", heard)
	}
	t.Run("who shows another's certificate", func(t *testing.T) {
		stolen := certificate(t, keyOf(t, x.admin))
		stolen.PrivateKey = unknown
		if r, err := caller(t, stolen).Post("https://"+x.m.API()+"/wherry.v1.MachineService/GetVersion", "application/json", strings.NewReader("{}")); err == nil {
			r.Body.Close()
			t.Errorf("it is answered: %s", r.Status)
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		c, err := tls.Dial("tcp", x.m.API(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		if err == nil {
			c.Close()
			t.Error("it is spoken")
		} else if !strings.Contains(err.Error(), "protocol version") {
			t.Error(err)
		}
	})
}

// roles tries every method with every role, but for those that would end the test.
func (x target) roles(t *testing.T) {
	for role, u := range map[string]*vmtest.User{"reader": x.reader, "operator": x.operator, "admin": x.admin} {
		c := caller(t, certificate(t, keyOf(t, u)))
		for m, least := range methods(t) {
			if role == "admin" && least == "admin" {
				continue
			}
			a := call(t, c, x.m.API(), m)
			if denied := a.Code == "permission_denied"; denied != (ranks[role] < ranks[least]) || a.Code == "unauthenticated" {
				t.Errorf("%s as %s: %+v", m.Name(), role, a)
			}
			if a.Code == "internal" || a.Code == "unknown" || a.Code == "unimplemented" {
				t.Errorf("%s of nothing: %+v", m.Name(), a)
			}
		}
	}
}
