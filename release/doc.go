// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package release tells what a published Wherry is, who signed it, and which
// one a machine takes.
//
// # Parties and keys
//
// A repository is a folder of plain files that any web server, bucket, mirror
// or USB stick can hold. None of them is trusted. Trust comes from four roles
// of The Update Framework (TUF), each an Ed25519 key or several with a threshold:
//
//	root       says which keys the four roles have. Kept offline.
//	targets    says which releases there are, their files' lengths and hashes,
//	           the channels and rollouts they are in, which are withdrawn.
//	snapshot   says which targets file is current, so that files of different
//	           times cannot be mixed.
//	timestamp  says which snapshot is current, for some days. Its expiry is what
//	           ends an attempt to keep news from a machine.
//
// A machine carries one root file, the one it was built with, and believes
// nothing but what leads from there: each newer root is signed by the one
// before it and by itself, however many there are. So a machine that was
// off for years follows all rotations when it comes back.
//
// # Files
//
//	metadata/N.root.json  metadata/timestamp.json
//	metadata/N.snapshot.json  metadata/N.targets.json
//	targets/releases/VERSION/EDITION-ARCH/SHA256.NAME
//
// Only timestamp.json is ever replaced. Everything that it leads to is there
// before it, under names that are never used again: whoever reads during a
// publication sees the old state or the new.
//
// # What is refused
//
// Refresh and Download read hostile input. Every file has a bound on its size,
// known before it is read, and on its time; the number of files is bounded;
// redirects stay on the server. Metadata that is older than what the Store remembers,
// expired, signed by too few of the right keys, or that does not belong
// together is an error that says which. Nothing is written but to the Store
// (verified metadata only) and to the file given to Download, never more
// than the signed length.
//
// The state machine of the verification is go-tuf's; fetching, bounds, persistence and
// the meaning of targets are this package's. It imports nothing of the inside
// of Wherry: host and machine share it.
package release
