package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certified writes a certificate for 127.0.0.1 and its key to files, and returns them with the pool of who trusts it.
func certified(t *testing.T) (cert, key string, trusted *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	public, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	trusted = x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public}))
	return write("cert.pem", "CERTIFICATE", public), write("key.pem", "PRIVATE KEY", secret), trusted
}

// With a certificate everything is answered over TLS of a version that is in use, and nothing without TLS.
func TestAccess_TLS(t *testing.T) {
	cert, key, trusted := certified(t)
	s := shows(t, Access{Address: "127.0.0.1:0", TLSCert: cert, TLSKey: key}, following)
	if !strings.HasPrefix(s.URL(), "https://") {
		t.Fatalf("URL is %s, want https", s.URL())
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	base := strings.TrimSuffix(s.URL(), "/")
	for _, path := range []string{"/healthz", "/status", "/metrics", "/"} {
		response, body := ask(t, client, base+path, nil)
		if response.StatusCode != http.StatusOK || response.TLS == nil || body == "" {
			t.Errorf("%s: %d, TLS %v, %d bytes; want 200 over TLS with a body", path, response.StatusCode, response.TLS != nil, len(body))
		}
	}
	plain := "http" + strings.TrimPrefix(base, "https") + "/status"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, err := http.DefaultClient.Do(r); err == nil {
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			t.Error("/status was answered without TLS")
		}
	}
	old := &tls.Dialer{Config: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}} //nolint:gosec // what must be refused
	if conn, err := old.DialContext(t.Context(), "tcp", strings.TrimPrefix(base, "https://")); err == nil {
		conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
}
