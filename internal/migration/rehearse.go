package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
)

// LeftOut is a part of a cutover's pause that its rehearsal leaves out, and how long it took
// when it was done in another way, outside of the fence.
type LeftOut struct {
	What string `json:"what"`
	MS   int64  `json:"ms"`
}

// measureRest measures, after a rehearsal, what its pause has not in it. Nothing of it stays.
func (s *switching) measureRest(ctx context.Context) error {
	total := time.Duration(s.result.PauseMS) * time.Millisecond
	s.result.LeftOut = nil
	for _, part := range []struct {
		what    string
		measure func(context.Context) (time.Duration, error)
	}{
		{"reading and setting sequences", s.r.measureSequences},
		{"creating foreign keys", s.measureKeys},
		{"opening the comparison", s.measureProof},
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

// measureSequences sets as many sequences as there are, but of its own: what setval does stays
// whatever becomes of its transaction.
func (r *runner) measureSequences(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var list []catalog.Sequence
	err := r.source.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		if err != nil {
			return err
		}
		list = catalog.SequencesOf(all, r.tables)
		_, err = cutover.ReadSequences(ctx, conn, list)
		return err
	})
	if err != nil || len(list) == 0 {
		return time.Since(began), err
	}
	var made time.Duration
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		if _, err := cutover.ReadSequences(ctx, conn, list); err != nil {
			return err
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
		making := time.Now()
		if _, err := tx.Exec(ctx, `create temporary sequence walferry_measured`); err != nil {
			return err
		}
		made = time.Since(making)
		_, err = tx.Exec(ctx, `select setval('pg_temp.walferry_measured', n) from generate_series(1, $1::int8) n`, len(list))
		return err
	})
	return time.Since(began) - made, err
}

// measureKeys creates the foreign keys that findKeys has found, and takes it back.
func (s *switching) measureKeys(ctx context.Context) (time.Duration, error) {
	if s.keys == nil || len(s.keys.Add) == 0 {
		return 0, nil
	}
	// Nobody, the applier neither, waits behind it for longer than this.
	if _, err := s.keys.conn.Exec(ctx, `set lock_timeout = '2s'`); err != nil {
		return 0, err
	}
	began := time.Now()
	err := s.keys.Rehearse(ctx, s.keys.conn)
	return time.Since(began), err
}

// measureProof opens the comparison of --verify, and closes it.
func (s *switching) measureProof(ctx context.Context) (took time.Duration, err error) {
	prover, err := s.r.connectProver(ctx)
	defer prover.close()
	if err != nil || prover == nil {
		return 0, err
	}
	began := time.Now()
	err = prover.open(ctx)
	return time.Since(began), err
}

// measureSeal commits as often on both sides as the seal and the records of a cutover do.
func (s *switching) measureSeal(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var err error
	for range 3 {
		beat, source := s.f.writeBeat(ctx)
		s.f.beats.forget(beat)
		target := s.r.store.Touch(ctx)
		err = errors.Join(err, source, target)
	}
	return time.Since(began), err
}

// Expectation is what a rehearsal says of the pause.
func (r *CutoverResult) Expectation() string {
	if r.ExpectMS == nil {
		return ""
	}
	var parts []string
	for _, p := range r.LeftOut {
		parts = append(parts, fmt.Sprintf("%s %d ms", p.What, p.MS))
	}
	return fmt.Sprintf("expect writes to be refused for about %d ms: that, and what was left out: %s", *r.ExpectMS, strings.Join(parts, ", "))
}
