// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/host/login"
)

const helperTimeout = 30 * time.Second

// registryAuth finds the user's credentials for an image's registry where
// docker keeps them, its credential helpers included. None is no error.
func registryAuth(ctx context.Context, image string) (*wherryv1.RegistryAuth, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, nil // the machine says what is wrong with the name, if anything is
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	a, err := authn.Resolve(ctx, authn.DefaultKeychain, ref.Context())
	if err != nil {
		return nil, fmt.Errorf("find credentials for %s: %w", ref.Context().RegistryStr(), err)
	}
	cfg, err := authn.Authorization(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("find credentials for %s: %w", ref.Context().RegistryStr(), err)
	}
	if *cfg == (authn.AuthConfig{}) {
		return nil, nil
	}
	auth := &wherryv1.RegistryAuth{Username: cfg.Username, Password: cfg.Password, IdentityToken: cfg.IdentityToken, RegistryToken: cfg.RegistryToken}
	if auth.Username == "" && cfg.Auth != "" {
		if plain, err := base64.StdEncoding.DecodeString(cfg.Auth); err == nil {
			auth.Username, auth.Password, _ = strings.Cut(string(plain), ":")
		}
	}
	return auth, nil
}

// defaultRegistry is where names without a registry lead, and the key under
// which docker keeps its credentials.
const (
	defaultRegistry    = "docker.io"
	defaultRegistryKey = "https://index.docker.io/v1/"
)

func registryKey(registry string) string {
	if registry == "" || registry == defaultRegistry || registry == "index.docker.io" {
		return defaultRegistryKey
	}
	return registry
}

// Login keeps credentials for a registry where docker keeps them. They are
// used at the next pull; the machine sees them only then.
func (c *CLI) Login(ctx context.Context, registry, user, password string, passwordStdin bool, ask login.Asker) error {
	if user == "" {
		return errors.New("login: name the user with -u")
	}
	switch {
	case passwordStdin:
		line, err := bufio.NewReader(c.In).ReadString('\n')
		if password = strings.TrimRight(line, "\r\n"); password == "" {
			return fmt.Errorf("login: no password on the input: %w", err)
		}
	case password == "" && ask == nil:
		return errors.New("login: no terminal to ask for the password on: use --password-stdin")
	case password == "":
		phrase, err := ask.Passphrase(ctx, fmt.Sprintf("Password of %s at %s: ", user, registryKey(registry)))
		if err != nil {
			return err
		}
		password = string(phrase)
	}
	entry := map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	path, err := changeDockerConfig(func(auths map[string]any) { auths[registryKey(registry)] = entry })
	if err != nil {
		return err
	}
	c.notef("kept in %s (readable by you alone, not encrypted); the next pull shows whether they are right", path)
	return nil
}

// Logout forgets the credentials for a registry.
func (c *CLI) Logout(registry string) error {
	known := false
	path, err := changeDockerConfig(func(auths map[string]any) {
		_, known = auths[registryKey(registry)]
		delete(auths, registryKey(registry))
	})
	if err != nil {
		return err
	}
	if !known {
		c.notef("there were no credentials for %s in %s", registryKey(registry), path)
	}
	return nil
}

// changeDockerConfig changes the auths of docker's configuration and leaves
// everything else in it as it is.
func changeDockerConfig(change func(auths map[string]any)) (path string, err error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find docker's configuration: %w", err)
		}
		dir = filepath.Join(home, ".docker")
	}
	path = filepath.Join(dir, "config.json")
	config := map[string]any{}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return path, fmt.Errorf("read credentials: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(data, &config); err != nil {
			return path, fmt.Errorf("read credentials from %s: %w", path, err)
		}
	}
	auths, ok := config["auths"].(map[string]any)
	if !ok {
		auths = map[string]any{}
		config["auths"] = auths
	}
	change(auths)
	out, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return path, fmt.Errorf("keep credentials: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return path, fmt.Errorf("keep credentials: %w", err)
	}
	return path, atomicfile.Write(path, append(out, '\n'), 0o600)
}
