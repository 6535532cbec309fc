// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
)

// A private key file is PKCS #8 in PEM. With a passphrase it is encrypted as
// RFC 8018 has it (PBES2: PBKDF2 with HMAC-SHA-256, AES-256-CBC), so that openssl
// reads it too.
const (
	plainKey     = "PRIVATE KEY"
	encryptedKey = "ENCRYPTED PRIVATE KEY"

	rounds    = 600_000
	maxRounds = 10_000_000 // a hostile file must not cost hours
)

var (
	oidPBES2      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
	oidAES256CBC  = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

type encryptedInfo struct {
	Algorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters pbes2
	}
	Data []byte
}

type pbes2 struct {
	KDF struct {
		OID        asn1.ObjectIdentifier
		Parameters kdfParameters
	}
	Cipher struct {
		OID asn1.ObjectIdentifier
		IV  []byte
	}
}

type kdfParameters struct {
	Salt   []byte
	Rounds int
	PRF    pkix.AlgorithmIdentifier
}

// errPassphrase is a wrong passphrase, or none.
var errPassphrase = errors.New("the passphrase is wrong")

// marshalKey writes a private key file.
func marshalKey(key ed25519.PrivateKey, passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if len(passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: plainKey, Bytes: der}), nil
	}
	var e encryptedInfo
	e.Algorithm.OID = oidPBES2
	p := &e.Algorithm.Parameters
	p.KDF.OID = oidPBKDF2
	p.KDF.Parameters = kdfParameters{make([]byte, 16), rounds, pkix.AlgorithmIdentifier{Algorithm: oidHMACSHA256, Parameters: asn1.NullRawValue}}
	p.Cipher.OID, p.Cipher.IV = oidAES256CBC, make([]byte, aes.BlockSize)
	rand.Read(p.KDF.Parameters.Salt)
	rand.Read(p.Cipher.IV)
	block, err := p.block(passphrase)
	if err != nil {
		return nil, err
	}
	pad := aes.BlockSize - len(der)%aes.BlockSize
	e.Data = append(der, bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(block, p.Cipher.IV).CryptBlocks(e.Data, e.Data)
	out, err := asn1.Marshal(e)
	return pem.EncodeToMemory(&pem.Block{Type: encryptedKey, Bytes: out}), err
}

func (p pbes2) block(passphrase []byte) (cipher.Block, error) {
	k := p.KDF.Parameters
	derived, err := pbkdf2.Key(sha256.New, string(passphrase), k.Salt, k.Rounds, 32)
	if err != nil {
		return nil, err
	}
	return aes.NewCipher(derived)
}

// parseKey reads a private key file. It asks for the passphrase when there is one.
func parseKey(data []byte, ask func() ([]byte, error)) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a key in PEM")
	}
	der := block.Bytes
	switch block.Type {
	case plainKey:
	case encryptedKey:
		passphrase, err := ask()
		if err != nil {
			return nil, err
		}
		if der, err = decrypt(der, passphrase); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("PEM of a %.40s, not of a private key", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	if k, ok := key.(ed25519.PrivateKey); ok {
		return k, nil
	}
	return nil, fmt.Errorf("a %T, not an Ed25519 key", key)
}

func decrypt(der, passphrase []byte) ([]byte, error) {
	var e encryptedInfo
	if rest, err := asn1.Unmarshal(der, &e); err != nil || len(rest) > 0 {
		return nil, errors.New("encrypted in a way that is not known here (want PBES2)")
	}
	p := e.Algorithm.Parameters
	k := p.KDF.Parameters
	switch {
	case !e.Algorithm.OID.Equal(oidPBES2), !p.KDF.OID.Equal(oidPBKDF2), !k.PRF.Algorithm.Equal(oidHMACSHA256), !p.Cipher.OID.Equal(oidAES256CBC):
		return nil, errors.New("encrypted in a way that is not known here (want PBKDF2, HMAC-SHA-256, AES-256-CBC)")
	case k.Rounds < 1 || k.Rounds > maxRounds, len(p.Cipher.IV) != aes.BlockSize, len(e.Data) == 0, len(e.Data)%aes.BlockSize != 0:
		return nil, errors.New("damaged")
	}
	block, err := p.block(passphrase)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(e.Data))
	cipher.NewCBCDecrypter(block, p.Cipher.IV).CryptBlocks(plain, e.Data)
	pad := int(plain[len(plain)-1])
	if pad < 1 || pad > aes.BlockSize || !bytes.Equal(plain[len(plain)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errPassphrase
	}
	return plain[:len(plain)-pad], nil
}
