package progress_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/progress"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A copy of the source at a position is continued from there, and only from there.
func TestSet(t *testing.T) {
	t.Parallel()
	_, url := pgtest.Pair(t, 15, 18)
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	open := func(stream string) *applier.Applier {
		t.Helper()
		a, err := applier.New(t.Context(), connect(), applier.Config{Name: stream})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close(t.Context()) })
		return a
	}
	tx := func(at decoder.LSN) *decoder.Tx {
		return &decoder.Tx{XID: 7, CommitLSN: at, EndLSN: at + 0x10, First: true, Last: true}
	}
	running := open("test")
	if err := running.Apply(t.Context(), tx(0x100)); err != nil {
		t.Fatal(err)
	}
	conn := connect()
	defer conn.Close(t.Context())
	for _, stream := range []string{"test", "new"} {
		if err := progress.Set(t.Context(), conn, stream, 0x500); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range pgtest.Query(t, url, `select applied, transactions, commit_time is null from walferry.progress`) {
		if row[0] != "0/500" || row[1] != "0" || row[2] != "t" {
			t.Errorf("got %v", row)
		}
	}
	if got, want := open("new").Applied(), decoder.LSN(0x500); got != want {
		t.Errorf("applied %s, want %s", got, want)
	}
	var moved *applier.ProgressError // the applier that was running does not continue
	if err := running.Apply(t.Context(), tx(0x600)); !errors.As(err, &moved) {
		t.Errorf("got %v, want a ProgressError", err)
	}
}
