package decoder

import (
	"encoding/hex"
	"testing"
	"time"
)

// A status says what was received and what is durable, each in its own field, and a zero stays a
// zero.
func TestStatus_Bytes(t *testing.T) {
	var s status
	at := time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)
	s.advance(0x1_00000002, 0)
	got := hex.EncodeToString(s.appendTo(nil, at, false))
	want := "64" + "00000026" + "72" + "0000000100000002" + "0000000000000000" + "0000000000000000" + "00000000000f4240" + "00"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.advance(0x1_00000003, 0x1_00000001)
	got = hex.EncodeToString(s.appendTo(nil, at, true))
	want = "64" + "00000026" + "72" + "0000000100000003" + "0000000100000001" + "0000000100000001" + "00000000000f4240" + "01"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestStatus_NeverGoesBack(t *testing.T) {
	var s status
	s.advance(30, 20)
	s.advance(10, 5)
	if want := (status{write: 30, flush: 20}); s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
	s.advance(0, 40) // after a start behind what the source has sent
	if want := (status{write: 40, flush: 40}); s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
}
