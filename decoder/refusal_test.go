package decoder_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

// refused opens a stream that must not open.
func (s *source) refused() error {
	s.t.Helper()
	stream, err := decoder.Open(s.t.Context(), s.url, s.config)
	if err == nil {
		stream.Close()
		s.t.Fatal("the stream was opened")
	}
	hinter, ok := errors.AsType[interface {
		error
		Hint() string
	}](err)
	if ok && hinter.Hint() == "" {
		s.t.Errorf("no hint for: %v", err)
	}
	return err
}

func wantSlot(t testing.TB, err error, reason decoder.SlotReason) {
	t.Helper()
	var slot *decoder.SlotError
	if !errors.As(err, &slot) || slot.Reason != reason {
		t.Errorf("got %v, want a SlotError with %s", err, reason)
	}
}

func wantPublication(t testing.TB, err error, reason string) {
	t.Helper()
	var publication *decoder.PublicationError
	if !errors.As(err, &publication) || !strings.Contains(publication.Reason, reason) {
		t.Errorf("got %v, want a PublicationError with %q", err, reason)
	}
}

func wantIdentity(t testing.TB, err error, what string) {
	t.Helper()
	var identity *decoder.IdentityError
	if !errors.As(err, &identity) || identity.What != what {
		t.Errorf("got %v, want an IdentityError with %s", err, what)
	}
}

func TestOpen_SlotMissing(t *testing.T) {
	s := newPlain(t)
	s.config.Slot += "_other"
	wantSlot(t, s.refused(), decoder.SlotMissing)
}

func TestOpen_SlotForeign(t *testing.T) {
	s := newPlain(t)
	other := newPlain(t)
	mine := s.config.Slot
	s.config.Slot = other.config.Slot
	wantSlot(t, s.refused(), decoder.SlotForeign)
	wantSlot(t, slot.Drop(t.Context(), s.conn(), other.config.Slot), decoder.SlotForeign)
	s.config.Slot = mine + "_p"
	s.exec(`select pg_create_physical_replication_slot('` + s.config.Slot + `')`)
	wantSlot(t, s.refused(), decoder.SlotForeign)
	s.exec(`select pg_drop_replication_slot('` + s.config.Slot + `')`)
}

// Another consumer has read from the slot: what it has read will not come again, and the server
// says nothing.
func TestOpen_SlotAhead(t *testing.T) {
	s := newPlain(t)
	s.config.Start = s.confirmed()
	s.exec(`insert into t values (1, 'a')`)
	s.exec(`select pg_replication_slot_advance('` + s.config.Slot + `', pg_current_wal_lsn())`)
	wantSlot(t, s.refused(), decoder.SlotAhead)
}

// The source was restored: its WAL does not go as far as what the target has.
func TestOpen_SourceBehindTarget(t *testing.T) {
	s := newPlain(t)
	s.config.Start = lsn(t, s.value(`select pg_current_wal_lsn()`)) + 1<<30
	wantIdentity(t, s.refused(), "WAL position")
}

func TestOpen_SlotActive(t *testing.T) {
	s := newPlain(t)
	first := s.open()
	s.config.WaitActive = -1
	err := s.refused()
	wantSlot(t, err, decoder.SlotActive)
	if active, ok := errors.AsType[*decoder.SlotError](err); ok && (active.PID == 0 || active.Application != "walferry stream") {
		t.Errorf("who reads it: %+v", active)
	}

	// With patience it opens as soon as the other one is gone.
	s.config.WaitActive = 0
	opened := make(chan error, 1)
	go func() {
		second, err := decoder.Open(t.Context(), s.url, s.config)
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	time.Sleep(100 * time.Millisecond) // any time would do; so the second one is likely to have tried
	first.Close()
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// WAL that the slot needs was removed, because the server limits what slots keep.
func TestOpen_SlotLost(t *testing.T) {
	for _, major := range []int{13, 16, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, pgtest.Options{Major: major, Settings: map[string]string{
				"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB", "wal_keep_size": "0",
			}})
			s := newSource(t, server.Database(t), plain, "public.t")
			for range 5 {
				s.exec(`insert into t select i, 'x' from generate_series(1, 1000) i; delete from t`)
				s.exec(`select pg_switch_wal()`)
				s.exec(`checkpoint`)
			}
			wantSlot(t, s.refused(), decoder.SlotLost)
		})
	}
}

func TestOpen_WrongSource(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	found := stream.Identity()
	stream.Close()

	s.config.Expect = found
	s.config.Expect.SystemID = "1234567890"
	wantIdentity(t, s.refused(), "system identifier")
	s.config.Expect = found
	s.config.Expect.Database = "elsewhere"
	wantIdentity(t, s.refused(), "database")
	s.config.Expect = found
	s.config.Expect.Timeline = 2
	wantIdentity(t, s.refused(), "timeline")
	s.config.Expect = found
	s.config.Expect.Publications = maps.Clone(found.Publications)
	s.config.Expect.Publications["other"] = decoder.PublicationIdentity{}
	wantPublication(t, s.refused(), "is not one of those that the stream reads")
}

func TestOpen_PublicationChanged(t *testing.T) {
	const quoted = `"Pub, ""of"" 'it'"`
	for _, c := range []struct{ sql, reason string }{
		{`drop publication ` + quoted, "does not exist"},
		{`drop publication ` + quoted + `; create publication ` + quoted + ` for table t`, "was dropped and created again"},
		{`create table u (id int primary key); alter publication ` + quoted + ` add table u`, `has a new table "public"."u"`},
		{`drop table t`, `has lost table "public"."t"`},
		{`alter publication ` + quoted + ` set (publish = 'insert')`, "publishes insert now"},
		{`alter publication ` + quoted + ` set (publish = 'insert'); alter publication ` + quoted + ` set (publish = 'insert, update, delete, truncate')`, "was altered, and perhaps altered back"},
		{`alter publication ` + quoted + ` drop table t; alter publication ` + quoted + ` add table t`, `had table "public"."t" taken out`},
		{`drop table t; create table t (id int primary key, v text); alter publication ` + quoted + ` add table t`, `has another table of the name "public"."t"`},
		{`alter table t rename to u`, `has table "public"."t" renamed: "public"."t" is called "public"."u" now`},
		{`alter table t rename to u; create table t (id int primary key); alter publication ` + quoted + ` add table t`, `has table "public"."t" renamed: "public"."t" is called "public"."u" now`},
		{`alter publication ` + quoted + ` set table t where (id < 100)`, `had table "public"."t" taken out, or restricted`},
		{`alter publication ` + quoted + ` set table t (id)`, `had table "public"."t" taken out, or restricted`},
		{`alter publication ` + quoted + ` add tables in schema public`, "holds tables in schema public now"},
	} {
		s := newPlain(t)
		stream := s.open()
		s.config.Expect = stream.Identity()
		stream.Close()
		s.exec(c.sql)
		wantPublication(t, s.refused(), c.reason)
		conn := s.conn()
		wantPublication(t, slot.CheckPublications(t.Context(), conn, s.config.Expect.Publications), c.reason)
	}
}

// What an older version has recorded has no entries. It keeps working, and is compared as far as it
// goes.
func TestOpen_PublicationOfOldRecord(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	stream.Close()
	now := stream.Identity().Publications[s.config.Publications[0]]
	recorded := fmt.Sprintf(`{"OID": %d, "Publish": %q, "Tables": ["\"public\".\"t\""]}`, now.OID, now.Publish)
	var was decoder.PublicationIdentity
	if err := json.Unmarshal([]byte(recorded), &was); err != nil {
		t.Fatal(err)
	}
	s.config.Expect.Publications = map[string]decoder.PublicationIdentity{s.config.Publications[0]: was}
	s.open().Close()
	s.exec(`drop table t`)
	wantPublication(t, s.refused(), `has lost table "public"."t"`)
}

// A publication survives its way through JSON, also one that holds no table by name.
func TestPublicationIdentity_JSON(t *testing.T) {
	for _, major := range []int{10, 13, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			publicationThroughJSON(t, newSource(t, pgtest.Shared(t, major).Database(t), plain, "public.t"))
		})
	}
}

func publicationThroughJSON(t *testing.T, s *source) {
	s.exec(`create publication everything for all tables`)
	for name, beyond := range map[string]string{s.config.Publications[0]: "", "everything": "all tables"} {
		now, err := slot.Publication(t.Context(), s.conn(), name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]decoder.PublicationIdentity{name: now})
		if err != nil {
			t.Fatal(err)
		}
		var again map[string]decoder.PublicationIdentity
		if err := json.Unmarshal(text, &again); err != nil || again[name].Entries == nil || again[name].Beyond != beyond {
			t.Errorf("%s: %s becomes %+v, %v; want entries, and beyond them %q", name, text, again[name], err, beyond)
		}
		if err := slot.CheckPublications(t.Context(), s.conn(), again); err != nil {
			t.Error(err)
		}
	}
}

func TestOpen_Unreachable(t *testing.T) {
	s := newPlain(t)
	s.url = "postgres://u:hidden@127.0.0.1:1/db"
	if err := s.refused(); strings.Contains(err.Error(), "hidden") {
		t.Errorf("the password is shown: %v", err)
	}
}

func TestOpen_RoleMayNotReplicate(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Major: 15, Password: "s3 cr@t"})
	s := newSource(t, server.Database(t), plain, "public.t")
	s.exec(`create role plain login password 'it is'`)
	admin, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, password := range []string{"it is", "wrong"} {
		u := *admin
		u.User = url.UserPassword("plain", password)
		s.url = u.String()
		var refused *decoder.RefusedError
		if err := s.refused(); !errors.As(err, &refused) {
			t.Errorf("got %v, want a RefusedError", err)
		}
	}
}

// Our walsender is terminated and the slot dropped: the stream must not resume with another one of
// that name, nor for ever without.
func TestStream_SlotDropped(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	s.exec(`insert into t values (1, 'a')`)
	if err := slot.Drop(t.Context(), s.conn(), s.config.Slot); err != nil {
		t.Fatal(err)
	}
	err := finalError(t, stream)
	wantSlot(t, err, decoder.SlotMissing)
	if again := finalError(t, stream); again != err {
		t.Errorf("a second Next returned %v", again)
	}
	if err := slot.Drop(t.Context(), s.conn(), s.config.Slot); err != nil {
		t.Errorf("drop it again: %v", err)
	}
}

// The slot was dropped and made again under the same name: it starts later.
func TestOpen_SlotRecreated(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	s.exec(`insert into t values (1, 'a')`)
	s.config.Start = next(t, stream).EndLSN
	stream.Close()
	if err := slot.Drop(t.Context(), s.conn(), s.config.Slot); err != nil {
		t.Fatal(err)
	}
	s.exec(`insert into t values (2, 'b')`)
	s.exec(`select pg_create_logical_replication_slot('` + s.config.Slot + `', 'pgoutput')`)
	wantSlot(t, s.refused(), decoder.SlotAhead)
}

// A publication is dropped while its slot is read. Until 17 decoding stops with an error; 18 warns
// and leaves the changes out.
func TestStream_PublicationDropped(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newSource(t, pgtest.Shared(t, major).Database(t), plain, "public.t")
			stream := s.open()
			s.exec(`insert into t values (1, 'a')`)
			next(t, stream)
			if err := slot.DropPublication(t.Context(), s.conn(), s.config.Publications[0]); err != nil {
				t.Fatal(err)
			}
			s.exec(`insert into t values (2, 'b')`)
			wantPublication(t, finalError(t, stream), s.config.Publications[0])
		})
	}
}

// DropSlot leaves another program's consumer alone.
func TestDropSlot_ReadByAnother(t *testing.T) {
	s := newPlain(t)
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("replication", "database")
	query.Set("application_name", "somebody")
	u.RawQuery = query.Encode()
	config, err := pgx.ParseConfig(u.String())
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	other, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.WithoutCancel(t.Context()))
	reading, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		other.PgConn().Exec(reading, `START_REPLICATION SLOT "`+s.config.Slot+`" LOGICAL 0/0 (proto_version '1', publication_names 'none')`).ReadAll()
	}()
	until(t, "slot is active", func() bool {
		info, err := slot.Read(t.Context(), s.conn().PgConn(), s.config.Slot)
		return err == nil && info.Active && info.Application == "somebody"
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := slot.Drop(ctx, s.conn(), s.config.Slot); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want to have waited", err)
	}
	stop()
	<-ended
	if err := slot.Drop(t.Context(), s.conn(), s.config.Slot); err != nil {
		t.Error(err)
	}
}

func TestNext_ContextEnds(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := stream.Next(ctx); !errors.Is(err, enough) {
		t.Errorf("got %v, want %v", err, enough)
	}
	s.exec(`insert into t values (1, 'a')`)
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"1","note":"a"}}`)
}

func TestCreatePublication_Exists(t *testing.T) {
	s := newPlain(t)
	_, err := slot.CreatePublication(t.Context(), s.conn(), s.config.Publications[0], nil, "")
	wantPublication(t, err, "exists already")
}

// A publication has the tables that it was given: not their children, and of different kinds of
// change only those that were requested.
func TestCreatePublication_OnlyTheseTables(t *testing.T) {
	for _, major := range []int{10, 13, 18} {
		s := &source{t: t, url: pgtest.Shared(t, major).Database(t)}
		s.exec(`create schema "S.x"; create table "S.x"."a""b" (id int); create table child () inherits ("S.x"."a""b"); create table log (id int)`)
		oid, err := slot.CreatePublication(t.Context(), s.conn(), "p", []pgx.Identifier{{"S.x", `a"b`}, {"public", "log"}}, "insert, truncate")
		if err != nil {
			t.Fatal(err)
		}
		got, err := slot.Publication(t.Context(), s.conn(), "p")
		if err != nil {
			t.Fatal(err)
		}
		publish := "insert,truncate"
		if major == 10 {
			publish = "insert"
		}
		if want := []string{`"S.x"."a""b"`, `"public"."log"`}; got.OID != oid || got.Publish != publish || !slices.Equal(got.Tables, want) {
			t.Errorf("%d: got %+v", major, got)
		}
		if _, err := slot.CreatePublication(t.Context(), s.conn(), "empty", nil, ""); err != nil {
			t.Error(err)
		}
	}
}

// The application's role may truncate its table and has no right on anything of ours; a truncate
// that is rolled back is none.
func TestTruncationTriggers_ApplicationRole(t *testing.T) {
	url := pgtest.Shared(t, 10).Database(t)
	s := &source{t: t, url: url}
	role := "app_" + s.value(`select current_database()`)
	s.exec(`create table parent (id int primary key); create table child (id int primary key references parent)`)
	if err := slot.CreateTruncationTriggers(t.Context(), s.conn(), []pgx.Identifier{{"public", "parent"}, {"public", "child"}}); err != nil {
		t.Fatal(err)
	}
	s.exec(`create role "` + role + `"; grant truncate, insert on parent, child to "` + role + `"`)
	defer s.exec(`drop owned by "` + role + `"; drop role "` + role + `"`)
	s = newSource(t, url, "select", "public.parent", "public.child", slot.TruncationTable)
	s.config.Truncations = slot.TruncationTable
	stream := s.open()
	s.exec(`begin; set role "` + role + `"; savepoint a; truncate parent, child; rollback to a; insert into parent values (1); commit`)
	expect(t, stream, `{"op":"insert","schema":"public","table":"parent","new":{"id":"1"}}`)
	s.exec(`set role "` + role + `"; set search_path = pg_temp; truncate public.parent cascade`)
	expect(t, stream, `{"op":"truncate","tables":[{"schema":"public","table":"parent"},{"schema":"public","table":"child"}]}`)
	if err := slot.CreateTruncationTriggers(t.Context(), (&source{t: t, url: pgtest.Shared(t, 15).Database(t)}).conn(), nil); err == nil {
		t.Error("a server that decodes truncate was given triggers")
	}
}

// A source in SQL_ASCII holds bytes that are no UTF-8: the stream ends with the server's words,
// after what came before.
func TestStream_InvalidText(t *testing.T) {
	server := pgtest.Shared(t, 15)
	const name = "decoder_ascii"
	pgtest.Exec(t, server.URL("postgres"), `create database `+name+` template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'`)
	t.Cleanup(func() {
		if err := server.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	s := newSource(t, server.URL(name), plain, "public.t")
	stream := s.open()
	s.exec(`insert into t values (1, 'a')`)
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"1","note":"a"}}`)
	s.exec(`insert into t values (2, convert_from('\x62ff', 'SQL_ASCII'))`)
	err := finalError(t, stream)
	var refused *decoder.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "22021") || !strings.Contains(refused.Hint(), "UTF-8") {
		t.Errorf("got %v, want a RefusedError with 22021", err)
	}
	stream.Close()
}

// A value whose text is longer than what a server can allocate (MaxAllocSize, 1 GB) cannot be sent:
// the stream ends with the server's words, after what came before.
func TestStream_ValueTooLarge(t *testing.T) {
	s := newSource(t, pgtest.Shared(t, 17).Database(t), plain+`; create table blob (id int primary key, b bytea)`, "public.t", "public.blob")
	stream := s.open()
	s.exec(`insert into t values (1, 'a')`)
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"1","note":"a"}}`)
	s.exec(`insert into blob values (1, convert_to(repeat('x', 540000000), 'UTF8'))`)
	var err error
	for err == nil { // however long a busy server takes for so much
		_, err = stream.Next(t.Context())
	}
	var refused *decoder.RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Hint(), "1 GB") {
		t.Errorf("got %v, want a RefusedError with a hint about 1 GB", err)
	}
	stream.Close()
}
