package plan

import (
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A plan of a small database: everything in it is copied, and nothing is left of that.
func TestMake(t *testing.T) {
	t.Parallel()
	for _, from := range []int{10, 17} {
		source, target := pgtest.Pair(t, from, 18)
		pgtest.Exec(t, source, `create type mood as enum ('good', 'bad');
create table "large of 'mine'" (id bigserial primary key, m mood, v text, w text);
insert into "large of 'mine'" (m, v, w) select 'good', 'x' || i, repeat('y', 50) from generate_series(1, 20000) i;
create index on "large of 'mine'" (v); create index on "large of 'mine'" (lower(w)); create index on "large of 'mine'" (m);
create table small (id int primary key, n int); insert into small select i, i from generate_series(1, 100) i; create table empty (a int)`)
		left := `select (select count(*) from pg_class where oid >= 16384) || ' ' || (select count(*) from pg_namespace) || ' ' || (select count(*) from pg_type)`
		was := [2]string{pgtest.Query(t, source, left)[0][0], pgtest.Query(t, target, left)[0][0]}
		p, err := Make(t.Context(), Config{Source: source, Target: target, Jobs: 2, Watch: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if now := [2]string{pgtest.Query(t, source, left)[0][0], pgtest.Query(t, target, left)[0][0]}; now != was {
			t.Errorf("from %d: the servers had %q, and have %q", from, was, now)
		}
		if p.Tables != 3 || len(p.Samples) != 2 || p.Total == nil {
			t.Fatalf("from %d: %+v", from, p)
		}
		for _, s := range p.Samples {
			if s.Skipped != "" || s.rows != map[string]int64{"large of 'mine'": 20000, "small": 100}[s.Name] || int64(s.Copied) != s.Bytes || s.TargetBytes == 0 {
				t.Errorf("from %d: %+v", from, s)
			}
		}
		if large := p.Samples[0]; large.measured == 0 || int64(large.measured) >= large.IndexBytes { // without that of an expression and that of mood
			t.Errorf("from %d: indexes of %v of %d bytes were built", from, large.measured, large.IndexBytes)
		}
		for what, r := range map[string]*Range{"copy": p.Copy, "indexes": p.Indexes, "total": p.Total, "disk": p.Disk} {
			if r.Low <= 0 || r.High < r.Low {
				t.Errorf("from %d: %s: %+v", from, what, *r)
			}
		}
	}
}

// A table that is larger than what may be copied is copied in part.
func TestMake_Part(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (a bigint primary key, b text); insert into t select i, repeat(md5(i::text), 10) from generate_series(1, 60000) i; analyze t`)
	p, err := Make(t.Context(), Config{Source: source, Target: target, Jobs: 2, Watch: time.Millisecond, SampleBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Samples[0]
	part := s.Copied / float64(s.Bytes)
	if rows := float64(s.rows) / 60000; part > .5 || rows < part/2 || rows > part*2 {
		t.Errorf("%.2f of the table was to be copied, %.2f of its rows was", part, rows)
	}
	if r := p.Disk; r.Low > float64(s.Bytes+s.IndexBytes) || r.Low < float64(s.Bytes)/2 {
		t.Errorf("disk %+v for a table of %d bytes", *r, s.Bytes)
	}
}
