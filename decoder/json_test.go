package decoder

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestAppendJSON(t *testing.T) {
	var d Decoder
	var got strings.Builder
	for _, message := range recorded(t, "changes")[:14] {
		tx, err := d.Decode(message)
		if err != nil {
			t.Fatal(err)
		}
		if tx != nil {
			tx.Origin, tx.CommitTime = "node_b", time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
			got.Write(AppendJSON(nil, tx))
		}
	}
	want := `{"xid":700,"commit_lsn":"0/100","end_lsn":"0/130","commit_time":"2026-01-02T03:04:05.000006Z","origin":"node_b","changes":[` +
		`{"op":"insert","schema":"public","table":"t","new":{"id":"1","note":"a","doc":null}},` +
		`{"op":"update","schema":"public","table":"t","new":{"id":"1","note":"b"},"unchanged":["doc"]},` +
		`{"op":"update","schema":"public","table":"t","key":{"id":"1"},"new":{"id":"2","note":"b"},"unchanged":["doc"]},` +
		`{"op":"delete","schema":"public","table":"t","key":{"id":"2"}},` +
		`{"op":"update","schema":"public","table":"full","old":{"a":"1","b":null},"new":{"a":"1","b":"x"}},` +
		`{"op":"delete","schema":"public","table":"full","old":{"a":"1","b":"x"}},` +
		`{"op":"truncate","tables":[{"schema":"public","table":"t"},{"schema":"public","table":"full"}],"cascade":true,"restart_identity":true},` +
		`{"op":"truncate","tables":[{"schema":"public","table":"full"}]}]}` + "\n"
	if got.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", got.String(), want)
	}
}

func TestAppendJSON_Pieces(t *testing.T) {
	got := string(AppendJSON(nil, &Tx{XID: 7, CommitLSN: 16, First: true}))
	if want := `{"xid":7,"commit_lsn":"0/10","first":true,"last":false,"changes":[]}` + "\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Whatever bytes a value has, the line is valid JSON and means what encoding/json would make of it.
func FuzzAppendString(f *testing.F) {
	for _, text := range []string{"", "plain", "\"\\\n\r\t\x00\x1f\x7f", "grün €😀", "\xff\xc3", "a\xe2\x82", "\u2028", "\ufffd"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		encoded := appendString(nil, text)
		if string(encoded) != string(appendString(nil, []byte(text))) {
			t.Fatalf("text and bytes of %q differ", text)
		}
		var got, want string
		if err := json.Unmarshal(encoded, &got); err != nil {
			t.Fatalf("%s: %v", encoded, err)
		}
		marshaled, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(marshaled, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%q became %q, want %q", text, got, want)
		}
	})
}
