package groups

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Who writes is seen by a role that is nobody's member, on every version.
func TestReadSamples_PlainRole(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 18} {
		dsn := pgtest.Shared(t, major).Database(t)
		pgtest.Exec(t, dsn, `create table t (id int); do $$ begin create role writes_plain login; exception when duplicate_object then null; end $$`)
		writer, err := connectAs(t.Context(), dsn, "", "web")
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close(context.Background())
		if _, err := writer.Exec(t.Context(), `begin; insert into t values (1)`, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
		conn, err := connectAs(t.Context(), dsn, "writes_plain", "looks")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		all, err := readSamples(t.Context(), conn)
		found := false
		for _, s := range all {
			found = found || s.application == "web" && s.xid != 0 && s.sessions == 1
		}
		if err != nil || !found {
			t.Errorf("on %d: %+v, %v", major, all, err)
		}
	}
}

func connectAs(ctx context.Context, dsn, user, application string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if user != "" {
		c.User = user
	}
	c.RuntimeParams["application_name"] = application
	return pgx.ConnectConfig(ctx, c)
}
