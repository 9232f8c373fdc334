package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// measureRest measures, after a rehearsal, what its pause does not include. Nothing of it is kept.
func (s *Switch) measureRest(ctx context.Context) error {
	total := time.Duration(s.result.PauseMS) * time.Millisecond
	s.result.LeftOut = nil
	for _, part := range []struct {
		what    string
		measure func(context.Context) (time.Duration, error)
	}{
		{"reading and setting sequences", s.Sequences.measure},
		{"creating foreign keys", s.measureKeys},
		{"opening the comparison", s.measureProof},
		{"redirecting clients", s.measureRedirect},
		{"sealing the fence and recording it", s.measureSeal},
	} {
		took, err := part.measure(ctx)
		if err != nil {
			return fmt.Errorf("measure what the rehearsal leaves out: %s: %w", part.what, err)
		}
		total += took
		if took > 0 {
			s.result.LeftOut = append(s.result.LeftOut, LeftOut{part.what, max(1, took.Milliseconds())})
		}
	}
	expect := total.Milliseconds()
	s.result.ExpectMS = &expect
	return nil
}

// measureKeys creates the foreign keys that findKeys has found, and rolls that back.
func (s *Switch) measureKeys(ctx context.Context) (time.Duration, error) {
	if s.keys == nil {
		return 0, nil
	}
	return s.keys.Rehearse(ctx)
}

// measureProof opens the comparison of --verify, and closes it.
func (s *Switch) measureProof(ctx context.Context) (took time.Duration, err error) {
	prover, err := s.newProver(ctx)
	defer prover.close()
	if err != nil || prover == nil {
		return 0, err
	}
	began := time.Now()
	err = prover.open(ctx)
	return time.Since(began), err
}

// measureSeal commits as often on both sides as the seal and the records of a cutover do.
func (s *Switch) measureSeal(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var err error
	for range 3 {
		source := s.Flow.Beat(ctx)
		target := s.Store.View().Touch(ctx)
		err = errors.Join(err, source, target)
	}
	return time.Since(began), err
}
