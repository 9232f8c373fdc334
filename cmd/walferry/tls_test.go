package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walferry/walferry/internal/pgtest"
)

// secure makes a side's server offer TLS with a certificate for localhost, and accept no connection
// without it: secure SIDE. The authority is in ca.pem, and another one, which has signed nothing,
// in other.pem.
func secure(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: secure SIDE")
	}
	tb, s := of(ts).tb, of(ts).servers[args[0]]
	admin := s.URL("postgres")
	if library := pgtest.Query(tb, admin, `select coalesce(current_setting('ssl_library', true), '')`)[0][0]; library == "" {
		tb.Skipf("the server of version %d was built without TLS", s.Major)
	}
	authority := newAuthority(ts)
	for name, text := range map[string][]byte{"ca.pem": authority.pem, "other.pem": newAuthority(ts).pem} {
		ts.Check(os.WriteFile(ts.MkAbs(name), text, 0o644))
	}
	certificate, key := authority.issue(ts, "localhost", 24*time.Hour)
	of(ts).authority = authority
	for name, text := range map[string][]byte{
		"server.crt": certificate, "server.key": key,
		"pg_hba.conf": []byte("local all all trust\nhostssl all all 127.0.0.1/32 trust\n"),
	} {
		ts.Check(s.WriteFile(name, text))
	}
	pgtest.Exec(tb, admin, `alter system set ssl = on`)
	ts.Check(s.Restart(tb.Context()))
}

// expire gives a side's secure server an expired certificate: expire SIDE.
func expire(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts).servers[args[0]]
	certificate, key := of(ts).authority.issue(ts, "localhost", -time.Minute)
	ts.Check(s.WriteFile("server.crt", certificate))
	ts.Check(s.WriteFile("server.key", key))
	ts.Check(s.Restart(of(ts).tb.Context()))
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(ts *testscript.TestScript) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	ts.Check(err)
	form := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "authority " + serial.String()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	ts.Check(err)
	certificate, err := x509.ParseCertificate(der)
	ts.Check(err)
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a server certificate, valid for a time from now, and its key, as PEM.
func (a *authority) issue(ts *testscript.TestScript, name string, good time.Duration) (certificate, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(good),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, form, a.certificate, &private.PublicKey, a.key)
	ts.Check(err)
	text, err := x509.MarshalPKCS8PrivateKey(private)
	ts.Check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}
