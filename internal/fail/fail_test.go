package fail

import (
	"errors"
	"fmt"
	"testing"
)

// An error of a kind is found wherever errors.As would find it, past those of other kinds.
func TestFind(t *testing.T) {
	gate := &Error{Kind: Gate, Problem: "it lags", Advice: "wait"}
	for name, err := range map[string]error{
		"itself":                  gate,
		"wrapped":                 fmt.Errorf("cut over: %w", gate),
		"joined":                  errors.Join(errors.New("first"), fmt.Errorf("x: %w", gate)),
		"the cause of another":    &Error{Kind: Run, Problem: "failed", Err: gate},
		"behind another's branch": errors.Join(&Error{Kind: Difference}, &Error{Kind: Run, Err: gate}),
	} {
		if got := Find(err, Gate); got != gate || !Is(err, Gate) {
			t.Errorf("%s: got %v", name, got)
		}
		if Is(err, Usage) {
			t.Errorf("%s: it is found as another kind", name)
		}
	}
	if Find(nil, Gate) != nil || Is(errors.New("plain"), Run) {
		t.Error("an Error is found where there is none")
	}
}

// The problem stands for its cause, and without one the cause speaks.
func TestError(t *testing.T) {
	cause := errors.New("no connection")
	for _, c := range []struct {
		err  *Error
		text string
	}{
		{&Error{Problem: "the source is gone", Err: cause}, "the source is gone"},
		{&Error{Err: cause}, "no connection"},
		{&Error{Problem: "alone"}, "alone"},
	} {
		if got := c.err.Error(); got != c.text {
			t.Errorf("got %q, want %q", got, c.text)
		}
		if c.err.Err != nil && !errors.Is(c.err, cause) {
			t.Errorf("%q does not lead to its cause", c.text)
		}
	}
	if got := Hint(fmt.Errorf("x: %w", &Error{Advice: "wait"})); got != "wait" {
		t.Errorf("got hint %q", got)
	}
	if got := Hint(errors.Join(&Error{Problem: "no advice"}, &Error{Advice: "wait"})); got != "wait" {
		t.Errorf("got hint %q where the first error has none", got)
	}
	if got := Hint(cause); got != "" {
		t.Errorf("got hint %q of an error that has none", got)
	}
}
