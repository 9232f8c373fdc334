package decoder_test

import (
	"context"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestSmoke(t *testing.T) {
	s := pgtest.Shared(t, 15)
	url := s.Database(t)
	pgtest.Exec(t, url, `create table t (id int primary key, note text)`)
	pgtest.Exec(t, url, `create publication p for table t`)
	pgtest.Exec(t, url, `select pg_create_logical_replication_slot('smoke', 'pgoutput')`)
	stream, err := decoder.Open(t.Context(), url, decoder.Config{Slot: "smoke", Publications: []string{"p"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	pgtest.Exec(t, url, `insert into t values (1, 'a'), (2, null)`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tx, err := stream.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", decoder.AppendJSON(nil, tx))
	t.Logf("%+v", stream.Identity())
}
