package identity

import (
	"errors"
	"testing"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A server is known by its cluster and its database, in the same words with a wal sender and without.
func TestSource(t *testing.T) {
	t.Parallel()
	dsn, other := pgtest.Pair(t, 10, 10)
	c := session.Config{DSN: dsn, Application: "test"}
	id, err := Source(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if id.SystemID == "" || id.Timeline == 0 {
		t.Errorf("identified as %+v", id)
	}
	if got := pgtest.Query(t, dsn, `select system_identifier, current_database() from pg_control_system()`)[0]; got[0] != id.SystemID || got[1] != id.Database {
		t.Errorf("by IDENTIFY_SYSTEM %+v, by the control file %v", id, got)
	}
	if err := CheckSource(t.Context(), c, id.SystemID, id.Database); err != nil {
		t.Errorf("the source itself: %v", err)
	}
	for _, test := range []struct{ dsn, system, database, what string }{
		{dsn, "1", id.Database, "system identifier"},
		{dsn, id.SystemID, "elsewhere", "database"},
		{other, id.SystemID, id.Database, ""}, // of the same cluster, maybe
	} {
		err := CheckSource(t.Context(), session.Config{DSN: test.dsn, Application: "test"}, test.system, test.database)
		var differs *decoder.IdentityError
		if !errors.As(err, &differs) || test.what != "" && differs.What != test.what {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
