package decoder_test

import (
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// The walsender gets more memory than the server's own setting, unless it was set for this
// connection. What exceeds it is spilled, as the slot's statistics show.
func TestOpen_DecodingMemory(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Major: 17, Settings: map[string]string{"logical_decoding_work_mem": "64kB"}})
	for options, spilled := range map[string]string{"": "0", "?options=-c%20logical_decoding_work_mem%3D128kB": "1"} {
		s := newSource(t, server.Database(t), `create table t (id int primary key, v text)`, "public.t")
		s.exec(`insert into t select i, md5(i::text) from generate_series(1, 2000) i`)
		s.url += options
		stream := s.open()
		for tx := next(t, stream); !tx.Last; tx = next(t, stream) {
			stream.Ack(tx.EndLSN)
		}
		if err := stream.Close(); err != nil {
			t.Fatal(err)
		}
		statistics := `select total_txns || ' ' || spill_txns from pg_stat_replication_slots where slot_name = '` + s.config.Slot + `'`
		until(t, "the transaction is in the slot's statistics", func() bool { return s.value(statistics) != "0 0" })
		if got := s.value(statistics); got != "1 "+spilled {
			t.Errorf("with %q: transactions and those of them that spilled: %s, want 1 %s", options, got, spilled)
		}
	}
}
