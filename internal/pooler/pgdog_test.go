package pooler

import "testing"

// What SHOW POOLS of PgDog has, as its source says: there is no PgDog to be asked.
func TestPgDog_Pools(t *testing.T) {
	pool := func(database, user, role, port, mode, active string) row {
		return row{"database": database, "user": user, "role": role, "addr": "10.0.0.5", "port": port, "pool_mode": mode, "sv_active": active}
	}
	pools := []row{
		pool("app", "web", "primary", "5432", "transaction", "0"),
		pool("app", "web", "replica", "5433", "transaction", "3"),
		pool("app", "batch", "primary", "5432", "session", "0"),
		pool("parts", "web", "primary", "5432", "transaction", "1"),
		pool("parts", "web", "primary", "5434", "transaction", "0"),
	}
	e, err := placeOfPools(pools, "app")
	if err != nil || e.Place != (Place{Host: "10.0.0.5", Port: 5432}) || e.mode != "session" {
		t.Errorf("app: %+v, %v", e, err)
	}
	if e, err := placeOfPools(pools, "none"); e != nil || err != nil {
		t.Errorf("none: %+v, %v", e, err)
	}
	if e, err := placeOfPools(pools, "parts"); err == nil {
		t.Errorf("parts: %+v", e)
	}
	for names, want := range map[string]bool{"app": true, "parts": true, "none": false} {
		if got := busy(pools, []string{names}); got != want {
			t.Errorf("%s is busy: %v", names, got)
		}
	}
	if busy([]row{pool("app", "web", "primary", "5432", "transaction", "0")}, []string{"app"}) {
		t.Error("a pool without a transaction is busy")
	}
	c := &Console{URL: "postgres://admin:secret@10.0.0.7:6432/admin", dog: true}
	f := &Fleet{Consoles: []*Console{c}, Names: []string{"app"}}
	if got, want := f.Commands(), "at 10.0.0.7:6432/admin: MAINTENANCE OFF;"; got != want {
		t.Errorf("by hand: %s, want %s", got, want)
	}
}
