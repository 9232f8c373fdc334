package migration

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

// A slot ahead of this process is a gap only if the target is not as far: to copy everything again
// because another migrate was faster would be bad advice.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	_, target := pgtest.Pair(t, 15, 18)
	conn, err := pgx.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := applier.SetProgress(t.Context(), conn, "test", 0); err != nil {
		t.Fatal(err)
	}
	link, err := session.OpenLink(t.Context(), session.Config{DSN: target, Application: "test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	f := &following{r: &runner{c: Config{Name: "test"}, target: link}}
	for _, test := range []struct {
		applied decoder.LSN
		gap     bool
	}{{0x100, true}, {0x1FF, true}, {0x200, false}, {0x300, false}} {
		if _, err := conn.Exec(t.Context(), `update walferry.progress set applied = $1::text::pg_lsn`, test.applied.String()); err != nil {
			t.Fatal(err)
		}
		ahead := &slot.Error{Slot: "s", Reason: slot.Ahead, Start: 0x100, Confirmed: 0x200}
		got := f.overtaken(t.Context(), ahead)
		var unusable *slot.Error
		if gap := errors.As(got, &unusable); got == nil || gap != test.gap {
			t.Errorf("target at %s: %v", test.applied, got)
		}
	}
	other := &slot.Error{Slot: "s", Reason: slot.Missing}
	if got := f.overtaken(t.Context(), other); !errors.Is(got, other) {
		t.Errorf("a slot that is gone: %v", got)
	}
}

// Two cutovers, of which one is that of --cutover auto, are carried out one after the other: what one
// takes back the other would have sealed.
func TestBeginCutting(t *testing.T) {
	f := &following{}
	end, err := f.beginCutting(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.beginCutting(over); !errors.Is(err, context.Canceled) {
		t.Errorf("a second cutover began within the first one: %v", err)
	}
	end()
	if end, err = f.beginCutting(over); err != nil {
		t.Errorf("the next one: %v", err)
	} else {
		end()
	}
}
