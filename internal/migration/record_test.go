package migration

import (
	"encoding/json"
	"testing"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
)

// A record outlives the binary that wrote it: what kinds of names it has within the program
// must not show in it.
func TestRecord_NamesStayAsTheyWere(t *testing.T) {
	for _, c := range []struct {
		json string
		into any
	}{
		{`{"oid":16385,"schema":"public","name":"orders","kind":"r","target_oid":16401}`, &state.Table{}},
		{`{"schema":"public","name":"orders_id_seq","type":"bigint","start":1,"increment":1,"min":1,"max":9,"cache":1,"cycle":false}`, &cutover.Remembered{}},
	} {
		if err := json.Unmarshal([]byte(c.json), c.into); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(c.into)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.json {
			t.Errorf("read and written again:\n%s\nwant\n%s", got, c.json)
		}
	}
}
