package main

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
)

func TestSupervisor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	read := func() string {
		t.Helper()
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	s := newSupervisor()
	lag := 0.25
	s.begin(func() migration.Status {
		st := migration.Status{Phase: migration.Following}
		st.Stream.LagSeconds = &lag
		return st
	})
	if got, want := read(), "READY=1\nSTATUS=phase following, 0.2 s behind"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := read(); !strings.HasPrefix(got, "STATUS=phase following") {
		t.Errorf("later: %q", got)
	}
	s.end()
	for got := read(); got != "STOPPING=1"; got = read() {
		if !strings.HasPrefix(got, "STATUS=") {
			t.Fatalf("at the end: %q", got)
		}
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if s := newSupervisor(); s != nil {
		t.Error("there is nobody to tell")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	none := newSupervisor()
	none.begin(nil)
	none.end()
}
