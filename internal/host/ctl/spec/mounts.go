// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/csv"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"wherry.example/wherry/api/wherryv1"
)

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// ParseVolume reads docker's -v: [SOURCE:]TARGET[:options]. The source is a
// volume's name or an absolute path of the machine.
func ParseVolume(text string) (*wherryv1.Mount, error) {
	m, err := parseVolume(text)
	if err == nil {
		err = checkMount(m)
	}
	if err != nil {
		return nil, fmt.Errorf("-v %q: %w", text, err)
	}
	return m, nil
}

func parseVolume(text string) (*wherryv1.Mount, error) {
	parts := strings.Split(text, ":")
	m := &wherryv1.Mount{}
	switch len(parts) {
	case 1:
		m.Target = parts[0]
		return m, nil
	case 2, 3:
		m.Source, m.Target = parts[0], parts[1]
	default:
		return nil, fmt.Errorf("too many colons: want [SOURCE:]TARGET[:ro]")
	}
	if m.Source == "" {
		return nil, fmt.Errorf("the source is empty")
	}
	if strings.HasPrefix(m.Source, "/") {
		m.Kind = wherryv1.Mount_KIND_BIND
	}
	if len(parts) == 3 {
		for _, o := range strings.Split(parts[2], ",") {
			switch o {
			case "ro":
				m.ReadOnly = true
			case "rw", "z", "Z": // SELinux labels, which a machine has not
			case "nocopy":
				m.NoCopy = true
			default:
				return nil, fmt.Errorf("unknown option %q: want ro, rw or nocopy", o)
			}
		}
	}
	return m, nil
}

func checkMount(m *wherryv1.Mount) error {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
		return fmt.Errorf("%q is not a place to mount at: want an absolute path below /", m.Target)
	}
	m.Target = path.Clean(m.Target)
	switch m.Kind {
	case wherryv1.Mount_KIND_BIND:
		if !path.IsAbs(m.Source) {
			return fmt.Errorf("%q is not an absolute path of the machine", m.Source)
		}
	case wherryv1.Mount_KIND_VOLUME:
		if strings.HasPrefix(m.Source, ".") || strings.HasPrefix(m.Source, "~") || strings.Contains(m.Source, "/") {
			return fmt.Errorf("%q is a path of this computer, which the machine cannot see: use a volume, and `wherry cp` to fill it", m.Source)
		}
		if m.Source != "" && !volumeName.MatchString(m.Source) {
			return fmt.Errorf("%q cannot name a volume: use letters, digits, dots, dashes and underscores", m.Source)
		}
	}
	return nil
}

// ParseMount reads docker's --mount: type=…,source=…,target=…[,options].
func ParseMount(text string) (*wherryv1.Mount, error) {
	m, err := parseMount(text)
	if err == nil {
		err = checkMount(m)
	}
	if err != nil {
		return nil, fmt.Errorf("--mount %q: %w", text, err)
	}
	return m, nil
}

var mountKinds = map[string]wherryv1.Mount_Kind{
	"volume": wherryv1.Mount_KIND_VOLUME, "bind": wherryv1.Mount_KIND_BIND, "tmpfs": wherryv1.Mount_KIND_TMPFS,
}

func parseMount(text string) (*wherryv1.Mount, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, err
	}
	m := &wherryv1.Mount{}
	for _, field := range fields {
		key, value, given := strings.Cut(field, "=")
		if err := setMountField(m, strings.ToLower(key), value, given); err != nil {
			return nil, err
		}
	}
	switch {
	case m.Kind != wherryv1.Mount_KIND_TMPFS && (m.TmpfsBytes != 0 || m.TmpfsMode != 0):
		return nil, fmt.Errorf("tmpfs options need type=tmpfs")
	case m.Kind == wherryv1.Mount_KIND_TMPFS && m.Source != "":
		return nil, fmt.Errorf("a tmpfs has no source")
	}
	return m, nil
}

func setMountField(m *wherryv1.Mount, key, value string, given bool) (err error) {
	switch key {
	case "type":
		kind, ok := mountKinds[value]
		if !ok {
			return fmt.Errorf("unknown type %q: want volume, bind or tmpfs", value)
		}
		m.Kind = kind
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		m.ReadOnly, err = parseBool(key, value, given)
	case "volume-nocopy":
		m.NoCopy, err = parseBool(key, value, given)
	case "tmpfs-size":
		m.TmpfsBytes, err = ParseBytes("tmpfs-size", value)
	case "tmpfs-mode":
		m.TmpfsMode, err = parseMode(value)
	default:
		return fmt.Errorf("unknown option %q", key)
	}
	return err
}

func parseBool(key, value string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s=%q: want true or false", key, value)
	}
	return b, nil
}

func parseMode(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("mode %q: want octal digits such as 1777", text)
	}
	return uint32(n), nil
}

// ParseTmpfs reads docker's --tmpfs: TARGET[:options].
func ParseTmpfs(text string) (*wherryv1.Mount, error) {
	target, options, _ := strings.Cut(text, ":")
	m := &wherryv1.Mount{Kind: wherryv1.Mount_KIND_TMPFS, Target: target}
	err := checkMount(m)
	for _, o := range strings.FieldsFunc(options, func(r rune) bool { return r == ',' }) {
		if err == nil {
			err = setTmpfsOption(m, o)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("--tmpfs %q: %w", text, err)
	}
	return m, nil
}

func setTmpfsOption(m *wherryv1.Mount, option string) (err error) {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "size":
		m.TmpfsBytes, err = ParseBytes("size", value)
	case "mode":
		m.TmpfsMode, err = parseMode(value)
	case "ro":
		m.ReadOnly = true
	case "rw":
		m.ReadOnly = false
	case "exec", "noexec", "suid", "nosuid", "dev", "nodev", "uid", "gid", "nr_inodes":
		m.TmpfsOptions = append(m.TmpfsOptions, option)
	default:
		err = fmt.Errorf("unknown option %q", key)
	}
	return err
}
