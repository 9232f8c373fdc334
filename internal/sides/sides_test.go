package sides

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
)

// The servers of a fallback are never called what they are in a cutover of one way. Names of
// tables, options and settings stay as they are.
func TestReword(t *testing.T) {
	const stays = `"public"."source" and "the target" of --source, target_session_attrs, public.source, a data-source`
	for _, c := range []struct{ text, forth, back string }{
		{"on the source, let them end", "on the old server, let them end", "on the new server, let them end"},
		{"alter the target's as the source's were.", "alter the new server's as the old server's were.", "alter the old server's as the new server's were."},
		{"identify source: EOF", "identify the old server: EOF", "identify the new server: EOF"},
		{"The target refuses it", "The new server refuses it", "The old server refuses it"},
		{"a cutover is under way; the cutover: `walferry cutover --without x`", "a cutover is under way; the cutover: `walferry cutover --without x`", "a fallback is under way; the fallback: `walferry fallback --without x`"},
		{"start over: " + StartOver, "start over: `walferry abort`, `walferry cleanup`, empty the new server, `walferry migrate`", "start over: that is `walferry finish`, after which there is no way back, and a new migration"},
		{stays, stays, stays},
	} {
		for s, want := range map[Sides]string{OneWay: c.text, Forth: c.forth, Back: c.back} {
			if got := s.Reword(c.text); got != want {
				t.Errorf("%q: got %q, want %q", s, got, want)
			}
		}
	}
}

// An error in other words is the same error to whoever asks what it is, and says its advice in them,
// too.
func TestError(t *testing.T) {
	cause := errors.New("receive from source: EOF")
	for _, err := range []error{
		&fail.Error{Kind: fail.Gate, Problem: "the target lags", Advice: "on the target, wait", Err: cause},
		fmt.Errorf("drain: %w", &fail.Error{Kind: fail.Gate, Problem: "the target lags", Advice: "on the target, wait", Err: cause}),
	} {
		if got := OneWay.Error(err); got != err {
			t.Errorf("of one way: got %v", got)
		}
		said := Back.Error(err)
		gate := fail.Find(said, fail.Gate)
		if gate == nil || !errors.Is(said, cause) || !strings.HasSuffix(gate.Problem, "the old server lags") || fail.Hint(said) != "on the old server, wait" {
			t.Errorf("got %v, hint %q", said, fail.Hint(said))
		}
	}
	if said := Back.Error(cause); said.Error() != "receive from the new server: EOF" || fail.Is(said, fail.Run) || fail.Hint(said) != "" {
		t.Errorf("got %v", said)
	}
	if Back.Error(nil) != nil {
		t.Error("no error has become one")
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	Back.Logger(log).With("cause", errors.New("source: EOF")).WithGroup("g").Warn("target failed", "error", errors.New("connect to target"), "table", "the source")
	for _, want := range []string{`msg="the old server failed"`, `cause="the new server: EOF"`, `g.error="connect to the old server"`, `g.table="the source"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("logged %s, want %s", out.String(), want)
		}
	}
	if OneWay.Logger(log) != log {
		t.Error("of one way: another logger")
	}
}
