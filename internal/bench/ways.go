package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// overTLS makes the server speak TLS and returns a DSN that demands it.
func overTLS(ctx context.Context, s *pgtest.Server, dsn string) (string, error) {
	if err := writeCertificate(s); err != nil {
		return "", err
	}
	if err := execute(ctx, dsn, `alter system set ssl = on`, `select pg_reload_conf()`); err != nil {
		return "", err
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	query := u.Query()
	query.Set("sslmode", "require")
	u.RawQuery = query.Encode()
	for range 100 { // until the postmaster has read it
		conn, e := pgx.Connect(ctx, u.String())
		if err = e; err == nil {
			return u.String(), conn.Close(ctx)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", fmt.Errorf("switch TLS on: %w", err)
}

// writeCertificate makes a certificate that the server signs itself.
func writeCertificate(s *pgtest.Server) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{"server.crt": {Type: "CERTIFICATE", Bytes: certificate}, "server.key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := s.WriteFile(name, pem.EncodeToMemory(block)); err != nil {
			return err
		}
	}
	return nil
}

// overSocket returns a DSN that leads through the server's unix socket.
func overSocket(_ context.Context, s *pgtest.Server, dsn string) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("host=%s port=%s user=%s dbname=%s", s.SocketDir, u.Port(), u.User.Username(), u.Path[1:]), nil
}
