package hook

import (
	"context"
	"time"
)

// Teller tells hooks what they cannot change, one event after the other, and keeps nobody waiting.
type Teller struct {
	c     *Caller
	queue chan Payload
	done  chan struct{}
	stop  context.CancelFunc
}

// waiting is how many events may wait to be told. What comes then is not told: hooks that cannot keep up
// must not hold a migration up.
const waiting = 100

// NewTeller returns a Teller that calls with c, until it is closed.
func NewTeller(c *Caller) *Teller {
	ctx, stop := context.WithCancel(context.Background())
	t := &Teller{c: c, queue: make(chan Payload, waiting), done: make(chan struct{}), stop: stop}
	go func() { defer close(t.done); t.run(ctx) }()
	return t
}

func (t *Teller) run(ctx context.Context) {
	for p := range t.queue {
		for _, err := range t.c.All(ctx, p) {
			t.c.Logger.Warn("a hook was not told", "reason", err)
		}
	}
}

// Tell has the hooks told of p. It may be called by one goroutine at a time.
func (t *Teller) Tell(p Payload) {
	select {
	case t.queue <- p:
	default:
		t.c.Logger.Warn("the hooks do not keep up: an event is not told", "event", string(p.Event))
	}
}

// Close waits until everything is told, for no longer than patience. Nothing may be told after it.
func (t *Teller) Close(patience time.Duration) {
	close(t.queue)
	late := time.AfterFunc(patience, t.stop)
	<-t.done
	late.Stop()
	t.stop()
}
