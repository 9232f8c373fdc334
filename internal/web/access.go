package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/walferry/walferry/internal/fail"
)

// Access says where a Server listens, and who may see what it shows.
type Access struct {
	Address         string // host:port; of a port alone the host is 127.0.0.1
	TokenFile       string // its first line is what readers must know; empty: everybody who reaches a loopback address may see
	TLSCert, TLSKey string // files; empty: no TLS
	loopback        bool
	token           []byte // empty: none is needed
	certificate     *tls.Certificate
}

// shortestToken is the length below which a token is refused: it can be guessed.
const shortestToken = 16

// open checks everything, and listens.
func (a *Access) open() (net.Listener, error) {
	wrong := func(problem, advice string) (net.Listener, error) {
		return nil, &fail.Error{Kind: fail.Usage, Problem: problem, Advice: advice}
	}
	address := a.Address
	if _, err := strconv.Atoi(address); err == nil {
		address = "127.0.0.1:" + address
	}
	host, port, err := net.SplitHostPort(address)
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil {
		return wrong(fmt.Sprintf("--listen %q is not an address", a.Address), "give a host and a port, such as 127.0.0.1:8085")
	}
	a.loopback = isLoopback(host)
	if a.TokenFile == "" && !a.loopback {
		return wrong(fmt.Sprintf("--listen %s can be reached from other hosts, and would show the migration to everybody", a.Address),
			"give --listen-token-file; or listen on 127.0.0.1 and come by ssh -L")
	}
	if a.TokenFile != "" {
		text, err := os.ReadFile(a.TokenFile)
		if err != nil {
			return wrong("--listen-token-file: "+err.Error(), "it is a file with one line: head -c 32 /dev/urandom | base64 > FILE")
		}
		line, _, _ := strings.Cut(string(text), "\n")
		if a.token = []byte(strings.TrimSpace(line)); len(a.token) < shortestToken {
			return wrong(fmt.Sprintf("the token in %s is shorter than %d characters", a.TokenFile, shortestToken), "make one: head -c 32 /dev/urandom | base64 > FILE")
		}
	}
	if (a.TLSCert == "") != (a.TLSKey == "") {
		return wrong("--listen-tls-cert and --listen-tls-key belong together", "give both, or neither")
	}
	if a.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(a.TLSCert, a.TLSKey)
		if err != nil {
			return wrong("--listen-tls-cert, --listen-tls-key: "+err.Error(), "give files in PEM form: the certificate with its chain, and its key")
		}
		a.certificate = &pair
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return wrong(fmt.Sprintf("--listen %s: %v", a.Address, err), "another process may have the port: give another one")
	}
	if a.certificate != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*a.certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	return l, nil
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// cookieName is that of the cookie that a browser gets for the token.
const cookieName = "walferry_listen"

// cookie is what stands in the cookie: whoever reads it there does not have the token.
func (a *Access) cookie() string {
	mac := hmac.New(sha256.New, a.token)
	mac.Write([]byte("walferry cookie")) //nolint:errcheck // a hash takes everything
	return hex.EncodeToString(mac.Sum(nil))
}

// same compares in a time that does not tell how much of it is right, nor how long it is.
func same(given string, want []byte) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256(want)
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// knows reports whether a request has the token.
func (a *Access) knows(r *http.Request) bool {
	if len(a.token) == 0 {
		return true
	}
	if given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return same(strings.TrimSpace(given), a.token)
	}
	cookie, err := r.Cookie(cookieName)
	return err == nil && same(cookie.Value, []byte(a.cookie()))
}

// addressed reports whether a request is for this server by a name that it can have. Without a token, a page of somebody else's that gives its
// own name this address must not get an answer.
func (a *Access) addressed(r *http.Request) bool {
	if len(a.token) > 0 {
		return true // which no other name's page has
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return isLoopback(strings.Trim(host, "[]"))
}

// public are the paths whose answer, without a token, is a word.
var public = map[string]bool{"/healthz": true, "/readyz": true}

// guard lets only those through to next who may see it.
func (a *Access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "this is only looked at: GET", http.StatusMethodNotAllowed)
		case !a.addressed(r):
			http.Error(w, "walferry listens on a loopback address, and answers only requests for localhost; a proxy in front of it must send Host: localhost", http.StatusMisdirectedRequest)
		case len(a.token) > 0 && r.URL.Query().Has("token"):
			a.admit(w, r)
		case !a.knows(r) && !public[r.URL.Path]:
			h.Set("WWW-Authenticate", `Bearer realm="walferry"`)
			http.Error(w, "walferry: the token of --listen-token-file is needed. A browser gets in by /?token=... once; programs by the header Authorization: Bearer ...", http.StatusUnauthorized)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// admit gives a browser that brings the token in the address a cookie instead, so that it is not in the address any more.
func (a *Access) admit(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if !same(q.Get("token"), a.token) {
		http.Error(w, "walferry: this is not the token of --listen-token-file", http.StatusUnauthorized)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: a.cookie(), Path: "/", HttpOnly: true, Secure: a.certificate != nil,
		SameSite: http.SameSiteLaxMode, // of a link in a ticket, too
	})
	q.Del("token")
	to := *r.URL
	to.RawQuery = q.Encode()
	http.Redirect(w, r, "/"+strings.TrimLeft(to.RequestURI(), "/"), http.StatusSeeOther) // never to another host
}
