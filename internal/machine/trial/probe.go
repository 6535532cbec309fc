// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/api/wherryv1/wherryv1connect"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

// maxAnswer is how much of an answer is read and shown.
const maxAnswer = 4 << 10

// probeAPI calls this machine as anybody would, with the one method that needs
// no key, and wants its own key behind the port.
func probeAPI(ctx context.Context, address, fingerprint string) error {
	t := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS13,
			// Machines are known by their key: VerifyConnection compares it.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				got, err := sshkey.Peer(&s)
				if err == nil && got != fingerprint {
					err = fmt.Errorf("its key is %s, and this machine's is %s", got, fingerprint)
				}
				return err
			},
		},
	}
	defer t.CloseIdleConnections()
	url := "https://" + address + wherryv1connect.MachineServiceGetVersionProcedure
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	_, err = answers(&http.Client{Transport: t, CheckRedirect: stay}, req, http.StatusOK)
	return err
}

// stay takes a redirection for the answer that it is.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// answers sends a request and wants a status; 0: any from 200 to 299. It returns the one that came.
func answers(c *http.Client, req *http.Request, status int) (string, error) {
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == status || status == 0 && resp.StatusCode/100 == 2 {
		return resp.Status, nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // to show; what came until an error is enough
	return "", fmt.Errorf("it answers %s: %s", resp.Status, body)
}

func compareKeys(before baseline, now string) error {
	if before.Persistent && before.Fingerprint != "" && before.Fingerprint != now {
		return fmt.Errorf("the machine's key is %s, and was %s: nobody would know it", now, before.Fingerprint)
	}
	return nil
}

// probeState wants state where it was, and that it can be written.
func probeState(before baseline, now *wherryv1.StateInfo, dir string) error {
	if before.Persistent && !now.GetPersistent() {
		return errors.New("it is in memory, and was on a disk")
	}
	f, err := os.CreateTemp(dir, ".trial-*")
	if err == nil {
		_, err = f.WriteString("written\n")
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	}
	return judgeWriting(err)
}

// judgeWriting forgives a disk that is full: that is not the release's fault.
func judgeWriting(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return nil
	}
	return err
}

// check does a check of the configuration, and returns what it printed if it went well.
func (t *Trial) check(ctx context.Context, c config.TrialCheck) (string, error) {
	switch {
	case c.HTTP.URL != "":
		return checkHTTP(ctx, c.HTTP)
	case c.TCP != "":
		return "", checkTCP(ctx, c.TCP)
	case len(c.Exec.Command) > 0:
		return t.checkExec(ctx, c.Exec)
	}
	return "", errors.New("it names neither http nor tcp nor exec")
}

// checkHTTP does not look at the certificate: the question is whether the work is done.
func checkHTTP(ctx context.Context, c config.TrialHTTP) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return "", err
	}
	t := &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer t.CloseIdleConnections()
	return answers(&http.Client{Transport: t, CheckRedirect: stay}, req, c.Status)
}

func checkTCP(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (t *Trial) checkExec(ctx context.Context, c config.TrialExec) (string, error) {
	var mu sync.Mutex // a command that does not end may still print when we have gone
	var text []byte
	code, err := t.o.Exec(ctx, c.Container, c.Command, func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		text = append(text, b[:min(len(b), maxAnswer-len(text))]...)
	})
	mu.Lock()
	out := slices.Clone(text)
	mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("it did not end within %s: %s", probeLimit, out)
	case err != nil:
		return "", err
	case code != 0:
		return "", fmt.Errorf("it ended with %d: %s", code, out)
	}
	return string(out), nil
}
