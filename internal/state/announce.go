package state

import (
	"context"
	"encoding/json"
	"time"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/wait"
)

// announced is the kind of a request that nobody answers: it shows what its asker waits for before it asks.
const announced = "verify"

// Announcement shows others whom this process waits for before it asks the running migrate to hold its applier. Whoever cannot
// be shown is not: that keeps nobody from asking.
type Announcement struct {
	box  Mailbox
	id   int64 // 0: nothing was shown
	last time.Time
}

// Announce returns an announcement that shows nothing yet.
func (m Mailbox) Announce() *Announcement { return &Announcement{box: m} }

// Show shows whom it waits for now. It may be called often.
func (a *Announcement) Show(ctx context.Context, w online.Wait) {
	if time.Since(a.last) < time.Second {
		return
	}
	a.last = time.Now()
	args, err := json.Marshal(Args{WaitsFor: w.For, Holders: w.Holders})
	if err != nil {
		return
	}
	home := a.box.store.home
	if a.id == 0 {
		home.Row(ctx, `
insert into walferry.request (migration, kind, args, requested_at, seen_at) select $1, $2, $3::text::jsonb, now - interval '1 millisecond', now from clock_timestamp() now returning id`,
			[]any{a.box.store.name, announced, string(args)}, &a.id) //nolint:errcheck // as above
		return
	}
	home.Exec(ctx, `update walferry.request set seen_at = clock_timestamp(), args = $2::text::jsonb where id = $1`, a.id, string(args)) //nolint:errcheck // as above
}

// End takes it away, also when ctx has ended.
func (a *Announcement) End(ctx context.Context) {
	if a.id == 0 {
		return
	}
	wait.Within(ctx, 5*time.Second, func(ctx context.Context) error { //nolint:errcheck // it is void when its asker is silent
		return a.box.store.home.Exec(ctx, `update walferry.request set answered_at = clock_timestamp(), ok = true where id = $1`, a.id)
	})
	a.id, a.last = 0, time.Time{}
}
