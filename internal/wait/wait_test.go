package wait

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

var errLater, errNever, errStop = errors.New("later"), errors.New("never"), errors.New("stop")

func TestPauses(t *testing.T) {
	pauses := func(p Pauses) (all []time.Duration) {
		for n := range 6 {
			all = append(all, p.After(n))
		}
		return all
	}
	if got, want := pauses(Every(3)), []time.Duration{3, 3, 3, 3, 3, 3}; !slices.Equal(got, want) {
		t.Errorf("even pauses are %v, want %v", got, want)
	}
	if got, want := pauses(Pauses{First: 10, Longest: 100}), []time.Duration{10, 20, 40, 80, 100, 100}; !slices.Equal(got, want) {
		t.Errorf("growing pauses are %v, want %v", got, want)
	}
	if got := (Pauses{First: 10, Longest: 100}).After(1 << 40); got != 100 {
		t.Errorf("the pause after very many attempts is %v, want 100", got)
	}
	for range 1000 {
		if got := (Pauses{First: 100, Random: true}).After(0); got < 50 || got >= 150 {
			t.Fatalf("a random pause of about 100 is %v", got)
		}
	}
	if got := (Pauses{Random: true}).After(3); got != 0 {
		t.Errorf("a random pause of nothing is %v", got)
	}
}

func TestAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		first []error // the results of the attempts, in order; then nil
		want  error
		tries int
		told  int
	}{
		{"succeeds at once", nil, nil, 1, 0},
		{"succeeds later", []error{errLater, errLater}, nil, 3, 2},
		{"fails for good", []error{errLater, errNever}, errNever, 2, 1},
	} {
		tries, told := 0, 0
		err := Again(t.Context(), Pauses{}, func() error {
			if tries++; tries <= len(c.first) {
				return c.first[tries-1]
			}
			return nil
		}, func(err error) bool { return errors.Is(err, errLater) }, func(error, time.Duration) { told++ })
		if !errors.Is(err, c.want) || tries != c.tries || told != c.told {
			t.Errorf("%s: got error %v after %d attempts, told %d times; want %v, %d, %d", c.name, err, tries, told, c.want, c.tries, c.told)
		}
	}
}

// The end of the context is reported rather than the failure, unless that is permanent.
func TestAgain_ContextEnds(t *testing.T) {
	for _, c := range []struct{ fails, want error }{{errLater, errStop}, {errNever, errNever}, {nil, nil}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := Again(ctx, Every(time.Hour), func() error { cancel(errStop); return c.fails },
			func(err error) bool { return errors.Is(err, errLater) }, func(error, time.Duration) { t.Error("told of another attempt") })
		if !errors.Is(err, c.want) {
			t.Errorf("ctx ends while an attempt ends with %v: got error %v, want %v", c.fails, err, c.want)
		}
	}
}

func TestUntil(t *testing.T) {
	looks := 0
	if err := Until(t.Context(), Every(0), func() (bool, error) { looks++; return looks == 3, nil }); err != nil || looks != 3 {
		t.Errorf("got error %v after %d looks", err, looks)
	}
	if err := Until(t.Context(), Every(0), func() (bool, error) { return false, errNever }); !errors.Is(err, errNever) {
		t.Errorf("a look that fails: got error %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	if err := Until(ctx, Every(time.Hour), func() (bool, error) { cancel(errStop); return false, nil }); !errors.Is(err, errStop) {
		t.Errorf("ctx ends between two looks: got error %v", err)
	}
}
