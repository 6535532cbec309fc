// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ova

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func appliance() Appliance {
	return Appliance{
		Name: "wherry", Version: "1.2.3<&>", CPUs: 2, MemoryMiB: 1024, Disk: []byte("a disk"), DiskBytes: 8 << 30, UsedBytes: 30 << 20,
		Time: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC),
	}
}

func unpack(t *testing.T, a Appliance) (dir string, order string) {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, a); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	cmd := exec.Command("tar", "-xvf", "-", "-C", dir)
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %s", out)
	}
	return dir, strings.Join(strings.Fields(string(out)), " ")
}

// The files are in the order that readers want, and openssl's notation of the
// checksums is what sha256sum computes.
func TestArchive(t *testing.T) {
	dir, order := unpack(t, appliance())
	if order != "wherry.ovf wherry.mf wherry.vmdk" {
		t.Errorf("the order is %s", order)
	}
	want := ""
	for _, name := range []string{"wherry.ovf", "wherry.vmdk"} {
		out, err := exec.Command("sha256sum", filepath.Join(dir, name)).Output()
		if err != nil {
			t.Fatal(err)
		}
		want += fmt.Sprintf("SHA256(%s)= %s\n", name, strings.Fields(string(out))[0])
	}
	if got, err := os.ReadFile(filepath.Join(dir, "wherry.mf")); err != nil || string(got) != want {
		t.Errorf("the checksums are\n%swant\n%s%v", got, want, err)
	}
}

// What the schema demands and what importers stumble over: known references, and
// the children of an item in the order of their names.
func TestDescription(t *testing.T) {
	dir, _ := unpack(t, appliance())
	data, err := os.ReadFile(filepath.Join(dir, "wherry.ovf"))
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Files []struct {
			ID   string `xml:"id,attr"`
			Href string `xml:"href,attr"`
			Size int    `xml:"size,attr"`
		} `xml:"References>File"`
		Disks []struct {
			ID       string `xml:"diskId,attr"`
			File     string `xml:"fileRef,attr"`
			Capacity int64  `xml:"capacity,attr"`
		} `xml:"DiskSection>Disk"`
		Version string `xml:"VirtualSystem>ProductSection>Version"`
		Items   []struct {
			Parts []struct {
				XMLName xml.Name
				Text    string `xml:",chardata"`
			} `xml:",any"`
		} `xml:"VirtualSystem>VirtualHardwareSection>Item"`
		Config []struct {
			Key   string `xml:"key,attr"`
			Value string `xml:"value,attr"`
		} `xml:"VirtualSystem>VirtualHardwareSection>Config"`
	}
	if err := strict(data, &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Files) != 1 || e.Files[0].Href != "wherry.vmdk" || e.Files[0].Size != 6 || len(e.Disks) != 1 || e.Disks[0].File != e.Files[0].ID || e.Disks[0].Capacity != 8<<30 {
		t.Errorf("files %+v, disks %+v", e.Files, e.Disks)
	}
	if e.Version != "1.2.3<&>" || len(e.Config) != 1 || e.Config[0].Key != "firmware" || e.Config[0].Value != "efi" {
		t.Errorf("version %q, settings %+v", e.Version, e.Config)
	}
	ids, types := map[string]bool{}, ""
	for _, item := range e.Items {
		var names []string
		for _, p := range item.Parts {
			names = append(names, p.XMLName.Local)
			switch p.XMLName.Local {
			case "InstanceID":
				if ids[p.Text] {
					t.Errorf("two items are number %s", p.Text)
				}
				ids[p.Text] = true
			case "Parent":
				if !ids[p.Text] {
					t.Errorf("there is no parent %s yet", p.Text)
				}
			case "ResourceType":
				types += p.Text + " "
			}
		}
		if !slices.IsSorted(names) {
			t.Errorf("the order %v is not the schema's", names)
		}
	}
	if types != "3 4 20 17 10 " {
		t.Errorf("the hardware is of the types %s", types)
	}
}

func strict(data []byte, v any) error {
	d := xml.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return err
	}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if _, space := token.(xml.CharData); err != nil || !space {
			return fmt.Errorf("there is %v behind the envelope: %w", token, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "a/b", "a)=", strings.Repeat("x", 100)} {
		a := appliance()
		a.Name = name
		if err := Write(io.Discard, a); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
}
