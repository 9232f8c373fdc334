package web

import (
	"context"
	"encoding/json"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/metrics"
	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// Migration is one that is shown.
type Migration struct {
	Key string // what it is called in paths and metrics

	Read   func(context.Context) (status.Status, error)
	Tables func(context.Context) ([]status.Table, error)
	Look   func(context.Context) (*ready.Looked, error)
}

// How often a migration is read: while somebody looks at the page, and otherwise, for the charts and the metrics. The gates that need a look
// at both catalogues are looked at while anybody has asked for anything lately.
const (
	readWatched  = 2 * time.Second
	readAnyhow   = 10 * time.Second
	readWithin   = 30 * time.Second
	lookInterval = time.Minute
	askedLately  = 3 * time.Minute
)

// view is a migration with what was read of it last.
type view struct {
	Migration
	log   *slog.Logger
	clean func(string) string

	mu       sync.Mutex
	status   *status.Status // nil: it was not read yet
	text     []byte         // its JSON
	at       time.Time
	problem  string // why it was not read since
	tables   []row
	version  int // of the tables: that of the last one that has changed
	history  history
	looked   *ready.Looked
	unlooked string // why there is no newer look
	asked    time.Time
	watchers int
	next     chan struct{} // closed at the next read

	looking sync.Mutex    // held while both servers are looked at
	wake    chan struct{} // somebody has begun to watch
}

// row is a table, and the version of the tables in which it came to be so.
type row struct {
	status.Table
	version int
	began   time.Time // when its copy was seen first
	first   int64     // the bytes that it had then
}

func newView(m Migration, clean func(string) string, log *slog.Logger) *view {
	return &view{Migration: m, clean: clean, log: log, next: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// run reads the migration until ctx ends.
func (v *view) run(ctx context.Context) {
	for ctx.Err() == nil {
		v.read(ctx)
		v.lookIfAsked(ctx)
		v.mu.Lock()
		pause := readAnyhow
		if v.watchers > 0 {
			pause = readWatched
		}
		v.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		case <-v.wake:
		}
	}
}

// read reads the migration once.
func (v *view) read(ctx context.Context) {
	now := time.Now()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	st, err := v.Read(ctx)
	var tables []status.Table
	if err == nil && v.wantsTables(st.Phase) {
		tables, err = v.Tables(ctx)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	defer func() {
		close(v.next)
		v.next = make(chan struct{})
	}()
	if err != nil {
		v.problem = plain(v.clean(err.Error()))
		v.log.Debug("read the migration for whoever looks", "error", err)
		return
	}
	mask(&st)
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		v.problem = err.Error()
		return
	}
	v.status, v.text, v.at, v.problem = &st, []byte(v.clean(string(text))), now, ""
	if tables != nil {
		v.keepTables(tables, now)
	}
	v.history.add(now, &st)
}

// wantsTables reports whether the tables may have changed.
func (v *view) wantsTables(phase state.Phase) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return phase == state.Copying || phase == state.Indexing || v.status == nil || v.status.Phase != phase
}

// keepTables notes which tables have changed, and how long those that are being copied take at the rate that was seen.
func (v *view) keepTables(tables []status.Table, now time.Time) {
	was := make(map[catalog.Name]*row, len(v.tables))
	for i := range v.tables {
		was[v.tables[i].Key()] = &v.tables[i]
	}
	version := v.version + 1
	rows := make([]row, len(tables))
	for i, t := range tables {
		rows[i] = row{Table: t, version: version}
		r := &rows[i]
		old := was[t.Key()]
		if t.State == state.TableCopying {
			if r.began, r.first = now, t.Bytes; old != nil && old.State == state.TableCopying && t.Bytes >= old.first {
				r.began, r.first = old.began, old.first
			}
			if passed, done := now.Sub(r.began).Seconds(), t.Bytes-r.first; passed > 0 && done > 0 {
				eta := passed * float64(max(0, t.BytesTotal-t.Bytes)) / float64(done)
				r.ETASeconds = &eta
			}
		}
		if old != nil && reflect.DeepEqual(old.Table, r.Table) {
			r.version = old.version
		} else {
			v.version = version
		}
	}
	v.tables = rows
}

// lookIfAsked looks at both servers, if somebody wants to know and nobody has looked lately.
func (v *view) lookIfAsked(ctx context.Context) {
	v.mu.Lock()
	wanted := v.status != nil && v.status.Phase == state.Following && (v.watchers > 0 || time.Since(v.asked) < askedLately)
	v.mu.Unlock()
	if wanted {
		v.look(ctx)
	}
}

// look looks at both servers, unless somebody has a moment ago.
func (v *view) look(ctx context.Context) {
	v.looking.Lock()
	defer v.looking.Unlock()
	v.mu.Lock()
	fresh := v.looked != nil && v.looked.Gates != nil && time.Since(v.looked.At) < lookInterval
	v.mu.Unlock()
	if fresh {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	looked, err := v.Look(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.looked, v.unlooked = looked, ""; err != nil {
		v.unlooked = plain(v.clean(err.Error()))
		v.log.Debug("look at the gates of a cutover for whoever looks", "error", err)
	}
}

// ready is what is known of the gates; mu is held.
func (v *view) ready() ready.Report {
	st := v.status
	if st == nil {
		st = &status.Status{}
	}
	r := ready.Now(st, v.looked)
	if v.problem != "" {
		r.Fails("read", "the target was not read since "+v.at.UTC().Format(time.TimeOnly)+" UTC: "+v.problem)
	}
	if v.unlooked != "" {
		r.Fails("look", "both servers could not be looked at: "+v.unlooked)
	}
	for i := range r.Gates {
		r.Gates[i].Says, r.Gates[i].Do = plain(v.clean(r.Gates[i].Says)), v.clean(r.Gates[i].Do)
	}
	return r
}

// known is what is known now, for metrics.
func (v *view) known() metrics.Migration {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked = time.Now()
	m := metrics.Migration{Name: v.Key, Status: v.status, At: v.at, Error: v.problem, CatchUp: v.history.catchUp()}
	for i := range v.tables {
		m.Tables = append(m.Tables, v.tables[i].Table)
	}
	if v.looked != nil && time.Since(v.looked.At) < askedLately || v.status != nil && v.status.Phase != state.Following {
		r := v.ready()
		m.Ready = &r
	}
	return m
}

// freshWithin is how long somebody who asks waits for a new read.
const freshWithin = 5 * time.Second

// fresh has the migration read, if it was not a moment ago, and waits for that.
func (v *view) fresh(ctx context.Context) {
	v.mu.Lock()
	stale, next := time.Since(v.at) > readWatched, v.next
	v.mu.Unlock()
	if !stale {
		return
	}
	select {
	case v.wake <- struct{}{}:
	default:
	}
	select {
	case <-next:
	case <-ctx.Done():
	case <-time.After(freshWithin):
	}
}

// watch counts who watches; the returned function ends that.
func (v *view) watch() (end func()) {
	v.mu.Lock()
	v.watchers++
	stale := time.Since(v.at) > readWatched
	v.mu.Unlock()
	if stale {
		select {
		case v.wake <- struct{}{}:
		default:
		}
	}
	return func() {
		v.mu.Lock()
		v.watchers--
		v.mu.Unlock()
	}
}
