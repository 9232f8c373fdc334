package hook

import (
	"sync"
	"time"

	"github.com/walferry/walferry/internal/tally"
)

// Times is how long the calls of hooks have taken. nil takes nothing down.
type Times struct {
	events sync.Map // of *tally.Histogram, in seconds, by Event
}

func (t *Times) observe(e Event, took time.Duration) {
	if t == nil {
		return
	}
	h, ok := t.events.Load(e)
	if !ok {
		h, _ = t.events.LoadOrStore(e, tally.New(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	}
	h.(*tally.Histogram).Observe(took.Seconds())
}

// Read returns how many seconds the calls have taken, by event, whether the hooks have agreed or not.
func (t *Times) Read() map[string]tally.Spread {
	took := map[string]tally.Spread{}
	t.events.Range(func(e, h any) bool {
		took[string(e.(Event))] = h.(*tally.Histogram).Read()
		return true
	})
	return took
}
