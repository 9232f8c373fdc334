package applier

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/walferry/walferry/decoder"
)

// copies counts the COPYs that a transaction would be sent as.
func copies(t *testing.T, g *target, tx *decoder.Tx) int {
	t.Helper()
	b, err := g.session.facts.batchOf(true, true, tx)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range b.commands {
		if c.copied != nil {
			n++
		}
	}
	return n
}

// Many INSERTs are a COPY; a table with row-level security, which COPY refuses, gets them
// otherwise.
func TestApply_Copied(t *testing.T) {
	g := newTarget(t, `create table plain (id int generated always as identity primary key, n serial, "v	;" text);
create table guarded (id int primary key, v text); alter table guarded enable row level security, force row level security`)
	plain, guarded := relation("plain", 'd', "id*", "v	;"), relation("guarded", 'd', "id*", "v")
	var changes, others []decoder.Change
	for id := 1; id <= 2*leastCopy; id++ {
		changes = append(changes, insert(plain, fmt.Sprint(id), "\\.\n\t\r\\N"), insert(plain, fmt.Sprint(-id), nil))
		others = append(others, insert(guarded, fmt.Sprint(id), "v"))
	}
	g.apply(changes...)
	g.apply(others...)
	g.want(`select count(*), count(distinct n), count("v	;"), min("v	;") = E'\\.\n\t\r\\N' from plain`, fmt.Sprintf("%d|%d|%d|t", 4*leastCopy, 4*leastCopy, 2*leastCopy))
	g.want(`select count(*) from guarded where v = 'v'`, fmt.Sprint(2*leastCopy))
	if g.folds.misfits > 0 {
		t.Error("what was gathered did not go through, and was applied one by one")
	}
	if n := copies(t, g, g.tx(changes...)); n != 1 {
		t.Errorf("%d COPYs, want 1", n)
	}
	if n := copies(t, g, g.tx(others...)); n != 0 {
		t.Errorf("%d COPYs of a table with row-level security, want none", n)
	}
}

// What COPY is refused is told as exactly as if it were alone, and nothing of the group stays.
func TestApply_CopiedConflict(t *testing.T) {
	g := newTarget(t, `create table t (id int primary key, v text); insert into t values (77, 'its own')`)
	r := relation("t", 'd', "id*", "v")
	var txs []*decoder.Tx
	for id := 1; id <= 2*leastCopy; id++ {
		txs = append(txs, g.tx(insert(r, fmt.Sprint(id), "new")))
	}
	err := g.Apply(t.Context(), txs...)
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Kind != Refused || conflict.XID != txs[76].XID || conflict.Constraint != "t_pkey" {
		t.Errorf("got %v, want the row that is there of transaction %d", err, txs[76].XID)
	}
	g.want(`select v from t`, "its own")
	f := newFeed(txs...)
	if err := g.Run(t.Context(), f); !errors.As(err, &conflict) || conflict.XID != txs[76].XID {
		t.Errorf("Run: got %v, want the row that is there", err)
	}
	g.exec(`delete from t where v = 'its own'`)
	if err := g.Apply(t.Context(), txs...); err != nil {
		t.Fatal(err)
	}
	g.want(`select count(*) from t where v = 'new'`, fmt.Sprint(2*leastCopy))
}

// Texts come out of a COPY as they went in.
func TestCopyText(t *testing.T) {
	g := newTarget(t, `create table texts (n int primary key, a text, b text)`)
	r := relation("texts", 'd', "n*", "a", "b")
	rapid.Check(t, func(t *rapid.T) {
		g.exec(`truncate texts`)
		texts := rapid.SliceOfN(rapid.OneOf(
			rapid.SampledFrom([]string{"", "NULL", `\N`, `\`, `\.`, "\\.\n", "\t", "\r", "\r\n", "\n", `\t`, ",", "é😀", "\v\b\f"}),
			rapid.StringMatching(`[^\x00]*`),
		), leastCopy, leastCopy+5).Draw(t, "texts")
		var changes []decoder.Change
		for i, text := range texts {
			changes = append(changes, insert(r, fmt.Sprint(i), text, nil))
		}
		if err := g.Apply(t.Context(), g.tx(changes...)); err != nil {
			t.Fatal(err)
		}
		for i, line := range g.exec(`select a, b is null from texts order by n`) {
			if string(line[0]) != texts[i] || string(line[1]) != "t" {
				t.Fatalf("%q came out as %q", texts[i], line[0])
			}
		}
	})
	if g.folds.misfits > 0 {
		t.Error("what was gathered did not go through, and was applied one by one")
	}
}
