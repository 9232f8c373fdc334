package cutover

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
)

// A server's statistics tell with a delay that they were gathered, to those who may not look at them: up to version 14 what was
// read last is read again for half a second.
func TestStatisticsGate_Late(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 13, 14, 15} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.New(t, pgtest.Options{Major: major}).Database(t)
			pgtest.Exec(t, dsn, `create role plain login; create schema late authorization plain; create table late.t (id int); alter table late.t owner to plain; insert into late.t values (1)`)
			u, err := url.Parse(dsn)
			if err != nil {
				t.Fatal(err)
			}
			u.User = url.User("plain")
			link, err := session.OpenLink(t.Context(), session.Config{DSN: u.String()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(link.Close)
			s := &Switch{
				To: session.End{DSN: u.String(), Link: link},
				Tables: func() []catalog.Table {
					return []catalog.Table{{Name: catalog.Name{Schema: "late", Name: "t"}, Kind: 'r'}}
				},
				Jobs: 1, Told: func(string) {},
			}
			if err := s.StatisticsGate(t.Context()); err != nil {
				t.Errorf("the gate says: %v", err)
			}
		})
	}
}

// The gate says that the target lags when something has not come through in time. What has failed is said as it is, and is a gate
// all the same: nothing was changed.
func TestLagGate_Fails(t *testing.T) {
	m := newMove(t)
	again := func() *Switch {
		s := m.again()
		s.Gates = []Step{{Name: GateLag, Do: s.LagGate}}
		return s
	}
	reset := errors.New("write the heartbeat on the source: connection reset by peer")
	m.lag = func(context.Context) (time.Duration, error) { return 0, reset }
	result, err := m.Run(t.Context(), t.Context())
	if !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "connection reset by peer") || strings.Contains(err.Error(), "lags") || !errors.Is(err, reset) || result.Touched {
		t.Errorf("got %+v, %v", result, err)
	}
	m.MaxLag = 10 * time.Millisecond
	m.lag = func(ctx context.Context) (time.Duration, error) {
		<-ctx.Done()
		return 0, fmt.Errorf("write the heartbeat on the source: %w", context.Cause(ctx))
	}
	if _, err = again().Run(t.Context(), t.Context()); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "write the heartbeat") {
		t.Errorf("it could not be written in time: %v", err)
	}
	m.lag = func(ctx context.Context) (time.Duration, error) {
		<-ctx.Done()
		return 0, context.Cause(ctx)
	}
	if _, err = again().Run(t.Context(), t.Context()); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "lags: what was committed") {
		t.Errorf("it lags: %v", err)
	}
	m.asBefore()
}

// A server that goes away at a gate ends a switch of which nothing was begun: everything is as before.
func TestSwitch_GateFails(t *testing.T) {
	m := newMove(t)
	m.Gates = append(m.Gates, Step{Name: GateActions, Do: func(context.Context) error { return errors.New("unexpected EOF") }})
	result, err := m.Run(t.Context(), t.Context())
	if !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "unexpected EOF; everything is as before") || fail.Hint(err) == "" || result.Touched {
		t.Errorf("got %+v, %v", result, err)
	}
	m.asBefore()
}
