// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"wherry.example/wherry/internal/format/tcglog"
)

// readSecureBoot reads what the firmware measured into register 7: its own
// variables first, then a separator, then why it started each program. Only the
// part before the separator tells about variables, because whoever runs later
// can measure what he likes; and only events whose digest is that of their data.
func (v *verifier) readSecureBoot() {
	var s *SecureBoot
	separated := false
	for _, e := range v.log.Events {
		if e.PCR != 7 {
			continue
		}
		if e.Kind == tcglog.Separator {
			separated = true
		}
		if e.Kind != tcglog.VariableConfig && e.Kind != tcglog.VariableAuthority {
			continue
		}
		variable, err := tcglog.ParseVariable(e.Data)
		proven := e.Proven() && err == nil
		switch {
		case e.Kind == tcglog.VariableConfig && proven && !separated && variable.Global() && variable.Name == "SecureBoot":
			if s == nil {
				s = &SecureBoot{On: len(variable.Data) == 1 && variable.Data[0] == 1}
			}
		case e.Kind == tcglog.VariableConfig && proven && !separated && variable.Name == "db" && s != nil:
			s.Enrolled = certificates(variable)
		case e.Kind == tcglog.VariableAuthority && s != nil:
			s.addAuthority(variable, proven)
		}
	}
	v.SecureBoot = s
}

func certificates(variable tcglog.Variable) (list []Certificate) {
	ders, err := variable.Certificates()
	if err != nil {
		return nil
	}
	for _, der := range ders {
		list = append(list, certificate(der))
	}
	return list
}

func certificate(der []byte) Certificate {
	c := Certificate{Subject: "not readable", Fingerprint: hexOf(sha256.Sum256(der))}
	if parsed, err := x509.ParseCertificate(der); err == nil {
		c.Subject = printable(parsed.Subject.String())
	}
	return c
}

func (s *SecureBoot) addAuthority(variable tcglog.Variable, proven bool) {
	der, err := variable.Certificate()
	if !proven || err != nil || variable.Name != "db" {
		s.other = true
		return
	}
	s.SignedBy = append(s.SignedBy, certificate(der))
}

// checkStarted looks whether what ran before the OS file can be believed. It is
// what measured register 11, and could have measured another release's file.
// One of two things proves it: Secure Boot was on and started nothing but what
// the release's owner signed; or every program that was started is the release's.
func (v *verifier) checkStarted(logged bool, r *Release) {
	const name = "started by"
	switch {
	case !logged:
		v.add(name, Skipped, "the event log is not proven")
		return
	case r == nil:
		v.add(name, Skipped, v.secureBootText()+"; there is no release to compare with")
		return
	}
	signed := v.startedBySigner(r)
	known := v.startedKnown(r)
	switch {
	case signed == nil:
		v.add(name, Good, v.secureBootText())
	case known == nil:
		v.add(name, Good, "the firmware started the release's loader and file, and nothing else; "+v.secureBootText())
	default:
		v.decide(name, "", fmt.Errorf("%w, and %w: register 11 may be pretended", signed, known))
	}
}

func (v *verifier) secureBootText() string {
	switch s := v.SecureBoot; {
	case s == nil:
		return "the log does not tell about Secure Boot"
	case !s.On:
		return "Secure Boot was off"
	case len(s.SignedBy) == 0:
		return "Secure Boot was on"
	default:
		return "Secure Boot was on, with programs signed by " + s.SignedBy[0].Subject
	}
}

// startedBySigner: every authority that firmware named is the release's certificate.
func (v *verifier) startedBySigner(r *Release) error {
	s := v.SecureBoot
	switch {
	case s == nil:
		return errors.New("the log does not tell about Secure Boot")
	case !s.On:
		return errors.New("Secure Boot was off")
	case r.SignedBy == "":
		return errors.New("the release is not signed for Secure Boot")
	case s.other || len(s.SignedBy) == 0:
		return errors.New("programs were started that no certificate signed")
	}
	for _, c := range s.SignedBy {
		if c.Fingerprint != r.SignedBy {
			return fmt.Errorf("a program was started that %s (%s) signed, who did not sign the release", c.Subject, c.Fingerprint)
		}
	}
	return nil
}

// startedKnown: the firmware started this release's file, and nothing else but
// boot loaders that the publisher knows (one outlives updates). Drivers count too:
// without Secure Boot, the firmware takes any from the disk.
func (v *verifier) startedKnown(r *Release) error {
	file := false
	for _, e := range v.log.Events {
		said := slices.Contains([]uint32{tcglog.Separator, tcglog.Action, tcglog.EFIAction}, e.Kind) && e.Proven()
		driver := e.Kind == tcglog.BootDriver || e.Kind == tcglog.RuntimeDriver
		if said || e.PCR != 4 && !driver {
			continue
		}
		digest := hexOf(e.Digest)
		isFile := e.Kind == tcglog.BootServicesApp && digest == r.File
		isLoader := e.Kind == tcglog.BootServicesApp && slices.ContainsFunc(v.e.Releases, func(r Release) bool { return r.Loader == digest })
		if !isFile && !isLoader {
			return fmt.Errorf("a %s was started (%.16s…) that is not of the release", tcglog.KindName(e.Kind), digest)
		}
		file = file || isFile
	}
	if !file {
		return errors.New("the log does not say that the release's file was started")
	}
	return nil
}
