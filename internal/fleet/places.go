package fleet

import (
	"context"
	"slices"
	"sync"
)

// place is something of which there is a limited number: to copy or to follow, in all or at one server.
type place struct {
	follow bool   // otherwise it is for copying
	at     string // the server; empty: in all
	target bool   // a server that is copied to, rather than one that slots are on
}

// places are taken by migrations. A migration waits until it can have all that it needs at once, so that it holds none that others
// could use meanwhile; who comes first in the fleet's order comes first here, and who does not fit keeps nobody from a place that is free.
type places struct {
	limits Limits

	mu      sync.Mutex
	used    map[place]int
	waiting []*waiter // by rank
}

type waiter struct {
	rank  int
	want  []place
	ready chan struct{} // closed when it has them
}

func newPlaces(l Limits) *places { return &places{limits: l, used: map[place]int{}} }

// limit is how many of a place there are; 0: no limit.
func (p *places) limit(of place) int {
	b := &p.limits.All
	switch {
	case of.at != "" && of.target:
		b = &p.limits.PerTarget
	case of.at != "":
		b = &p.limits.PerSource
	}
	if of.follow {
		return b.Following
	}
	return b.Copying
}

// ask asks for places, which has to be followed by wait.
func (p *places) ask(rank int, want []place) *waiter {
	w := &waiter{rank: rank, want: want, ready: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	at, _ := slices.BinarySearchFunc(p.waiting, w, func(a, b *waiter) int { return a.rank - b.rank })
	p.waiting = slices.Insert(p.waiting, at, w)
	p.grant()
	return w
}

// wait waits for places that were asked for.
func (p *places) wait(ctx context.Context, w *waiter) error {
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else { // it had them a moment ago
		p.give(w.want)
	}
	return context.Cause(ctx)
}

// force takes places that are taken on the servers already, whatever the limits are.
func (p *places) force(want []place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range want {
		p.used[one]++
	}
}

// free gives places back.
func (p *places) free(had []place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.give(had)
}

// give is free while mu is held.
func (p *places) give(had []place) {
	for _, one := range had {
		p.used[one]--
	}
	p.grant()
}

// grant lets go who can have all that it wants; mu is held.
func (p *places) grant() {
	p.waiting = slices.DeleteFunc(p.waiting, func(w *waiter) bool {
		for _, one := range w.want {
			if limit := p.limit(one); limit > 0 && p.used[one] >= limit {
				return false
			}
		}
		for _, one := range w.want {
			p.used[one]++
		}
		close(w.ready)
		return true
	})
}

// copying are the places of a migration that copies.
func (d *Database) copying() []place {
	return []place{{}, {at: d.From.ID}, {at: d.To.ID, target: true}}
}

// following are those of one that has a slot: on its source, or, with a way back that is followed, on its target.
func (d *Database) following(back bool) []place {
	if back {
		return []place{{follow: true}, {follow: true, at: d.To.ID, target: true}}
	}
	return []place{{follow: true}, {follow: true, at: d.From.ID}}
}
