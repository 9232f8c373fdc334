package decoder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recorded are the messages of a script, in order.
func recorded(t testing.TB, script string) [][]byte {
	text, err := os.ReadFile(filepath.Join("testdata", "script", script+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for line := range strings.Lines(string(text)) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "> "); ok {
			messages = append(messages, encode(t, strings.Fields(command)))
		}
	}
	return messages
}

// A message that ends early, wherever it does, is refused with a ProtocolError that names it, and
// one that is longer than it should be as well.
func TestDecode_CutShort(t *testing.T) {
	messages := append(recorded(t, "message"), recorded(t, "changes")...)
	for i, message := range messages {
		wrong := [][]byte{append(bytes.Clone(message), 0)}
		for n := range len(message) {
			wrong = append(wrong, message[:n])
		}
		for _, msg := range wrong {
			if message[0] == 'I' && len(message) == 8 {
				continue // with what is left it is another table's valid row
			}
			var d Decoder
			for _, before := range messages[:i] {
				if _, err := d.Decode(before); err != nil {
					t.Fatal(err)
				}
			}
			_, err := d.Decode(msg)
			var protocol *ProtocolError
			if !errors.As(err, &protocol) {
				t.Errorf("%q cut to %d of %d bytes: got %v, want a ProtocolError", message[0], len(msg), len(message), err)
				continue
			}
			if len(msg) > 0 && protocol.Kind != message[0] || protocol.Length != len(msg) || protocol.Offset > len(msg) {
				t.Errorf("%q cut to %d bytes: wrong error %+v", message[0], len(msg), protocol)
			}
		}
	}
}

// FuzzDecode feeds messages, one length byte before each, to one decoder. Whatever they are, it
// must not panic, and what it gives must hold together.
func FuzzDecode(f *testing.F) {
	for _, script := range []string{"changes", "empty", "relation-changes", "message"} {
		var stream []byte
		for _, message := range recorded(f, script) {
			stream = append(append(stream, byte(len(message))), message...)
			f.Add(append([]byte{byte(len(message))}, message...))
		}
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		d := Decoder{
			PieceBytes: 300, Truncations: "public.t",
			Messages: func(prefix string) bool { return len(prefix)%2 == 0 }, Empty: func(xid uint32) bool { return xid%2 == 0 },
		}
		for len(stream) > 0 {
			n := min(int(stream[0]), len(stream)-1)
			msg := bytes.Clone(stream[1 : 1+n])
			stream = stream[1+n:]
			tx, err := d.Decode(msg)
			if err != nil {
				var protocol *ProtocolError
				if !errors.As(err, &protocol) || tx != nil {
					t.Fatalf("got %v and %v", tx, err)
				}
				d.Reset(0)
				continue
			}
			clear(msg) // nothing of it may be kept
			if tx != nil {
				verifyTx(t, tx)
			}
		}
	})
}

func verifyTx(t *testing.T, tx *Tx) {
	none := len(tx.Changes)+len(tx.Messages) == 0 // only where Empty has asked for it, which is of one piece
	if none && (tx.XID%2 != 0 || !tx.First || !tx.Last) || tx.XID == 0 && (len(tx.Messages) != 1 || len(tx.Changes) > 0) || tx.Last != (tx.EndLSN != 0) {
		t.Fatalf("broken Tx %+v", tx)
	}
	for _, m := range tx.Messages {
		if len(m.Prefix)%2 != 0 || m.Before < 0 || m.Before > len(tx.Changes) || !m.Transactional && tx.XID == 0 && m.LSN != tx.EndLSN {
			t.Fatalf("broken message %+v of %+v", m, tx)
		}
	}
	for _, c := range tx.Changes {
		if c.Op == Truncate {
			if len(c.Truncated) == 0 || c.Relation != nil {
				t.Fatalf("broken truncate %+v", c)
			}
			continue
		}
		n := len(c.Relation.Columns)
		if c.Old != nil && len(c.Old) != n || c.New != nil && len(c.New) != n {
			t.Fatalf("rows of %d and %d values for %d columns", len(c.Old), len(c.New), n)
		}
		if (c.Op != Delete) != (c.New != nil) || c.Op == Delete && c.Old == nil {
			t.Fatalf("rows do not fit %c", c.Op)
		}
	}
}

// Values point into memory that is shared by many transactions and never written again: all of them
// are still there at the end.
func TestDecode_KeepsEarlierValues(t *testing.T) {
	var d Decoder
	decode := func(line string) *Tx {
		tx, err := d.Decode(encode(t, strings.Fields(line)))
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	var txs []*Tx
	var want []string
	wide := strings.Repeat("x", chunkBytes/3)
	for i := range 3000 {
		decode("begin 700 0/100")
		if i == 0 {
			decode("relation 16384 public.t d id* note")
		}
		text := strings.Repeat("v", i)
		if i%500 == 0 {
			text = wide
		}
		decode("insert 16384 =" + text + " n")
		decode("insert 16384 = =" + text)
		txs = append(txs, decode("commit 0/100 0/101"))
		want = append(want, text)
		d.Reset(0)
		decode("relation 16384 public.t d id* note")
	}
	for i, tx := range txs {
		if len(tx.Changes) != 2 || string(tx.Changes[0].New[0].Data) != want[i] || string(tx.Changes[1].New[1].Data) != want[i] {
			t.Fatalf("transaction %d has changed afterwards", i)
		}
		if tx.Changes[0].Relation != txs[0].Changes[0].Relation {
			t.Fatalf("transaction %d has another Relation, though nothing has changed", i)
		}
	}
}

// A value that is kept must not keep the values of other messages alive without bound: the chunk of
// values changes with the chunks of messages.
func TestSlab_GivesUpChunks(t *testing.T) {
	var s slab
	message := make([]byte, chunkBytes/2)
	for range 100 {
		s.copy(message)
		s.values(1)
		if held := s.used; held > 3 {
			t.Fatalf("a chunk holds values of %d messages of %d bytes", held, len(message))
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	lines := []string{
		"begin 700 0/100",
		"update 16384 N =4711 =12 =-385 =" + strings.Repeat("x", 84),
		"insert 16385 =17 =1 =4711 =-385 =2026-01-02T03:04:05.123456 n",
		"commit 0/100 0/101",
	}
	var messages [][]byte
	size := 0
	for _, line := range lines {
		message := encode(b, strings.Fields(line))
		messages = append(messages, message)
		size += len(message)
	}
	var d Decoder
	for _, line := range []string{
		"relation 16384 public.pgbench_accounts d aid* bid abalance filler",
		"relation 16385 public.pgbench_history n tid bid aid delta mtime filler",
	} {
		if _, err := d.Decode(encode(b, strings.Fields(line))); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		d.end = 0
		for _, message := range messages {
			if _, err := d.Decode(message); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// In a steady state a change needs no allocation of its own: those that there are belong to chunks
// that many share. Two changes and a Tx at a time here.
func TestDecode_Allocations(t *testing.T) {
	var d Decoder
	for _, line := range []string{"relation 16384 public.t d id* v", "relation 16385 public.log n a b c"} {
		if _, err := d.Decode(encode(t, strings.Fields(line))); err != nil {
			t.Fatal(err)
		}
	}
	var messages [][]byte
	for _, line := range []string{"begin 700 0/100", "update 16384 N =4711 =text", "insert 16385 =17 =1 n", "update 16384 N =4711 =text", "insert 16385 =17 =1 n", "commit 0/100 0/101"} {
		messages = append(messages, encode(t, strings.Fields(line)))
	}
	allocations := testing.AllocsPerRun(10_000, func() {
		d.end = 0
		for _, message := range messages {
			if _, err := d.Decode(message); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocations >= 2 { // the Tx itself, and parts of chunks
		t.Errorf("%v allocations for a transaction of four changes", allocations)
	}
}
