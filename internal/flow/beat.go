package flow

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// beat is a sign that goes through the stream: a transaction of the source that changes nothing and
// holds a logical message. It is in no table, so that no other reader of the source is sent
// anything. From 14 on the stream recognizes it by its message; before, pgoutput sends no messages,
// but does send every transaction that has written WAL, and the beat is recognized by its
// transaction id.
type beat struct {
	key beatKey
	at  time.Time     // when it was written, by this process's clock
	end atomic.Uint64 // where its transaction ends, once the stream has delivered it; 0: not yet
}

// beatKey identifies a beat by both.
type beatKey struct {
	content string
	xid     uint32
}

// pulse writes beats into a flow, and knows those that somebody waits for.
type pulse struct {
	prefix  string // of the messages
	from    *session.Link
	applied func() decoder.LSN // as the applier knows it
	run     uint64             // differs from that of every other run, whose messages may still arrive

	mu       sync.Mutex
	number   int
	wanted   map[beatKey]*beat
	underway []*beat       // those of beat that have not come back, oldest first
	lag      time.Duration // of the last one that has come back: how long it took
	lagBytes int64
}

func newPulse(name Name, from *session.Link, applied func() decoder.LSN) *pulse {
	return &pulse{prefix: name.Messages(), from: from, applied: applied, run: rand.Uint64(), wanted: map[beatKey]*beat{}}
}

// content returns that of the next message.
func (p *pulse) content() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.number++
	return fmt.Sprintf("%016x %d", p.run, p.number)
}

// want has to be called before the beat's commit: the beat may come back before the answer to the
// commit.
func (p *pulse) want(key beatKey) *beat {
	beat := &beat{key: key, at: time.Now()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted[key] = beat
	return beat
}

func (p *pulse) forget(beat *beat) {
	if beat == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(beat)
}

func (p *pulse) remove(beat *beat) {
	if p.wanted[beat.key] == beat {
		delete(p.wanted, beat.key)
	}
}

// empty reports whether a transaction without changes is a beat.
func (p *pulse) empty(xid uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted[beatKey{xid: xid}] != nil
}

// saw notes where a transaction ends if it is a beat.
func (p *pulse) saw(tx *decoder.Tx) {
	if len(tx.Changes) > 0 || !tx.First || !tx.Last || tx.XID == 0 {
		return
	}
	key := beatKey{xid: tx.XID}
	if len(tx.Messages) > 0 {
		key = beatKey{content: string(tx.Messages[0].Content)}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if beat := p.wanted[key]; beat != nil {
		beat.end.Store(uint64(tx.EndLSN))
	}
}

// hear makes a stream deliver the beats.
func (p *pulse) hear(c *decoder.Config) {
	c.Messages = func(prefix string) bool { return prefix == p.prefix }
	c.Empty = p.empty
}

const beatSQL = `select pg_logical_emit_message(true, $1, $2)::text, pg_current_wal_lsn()::text, txid_current()`

// write writes a beat on the source. The beat is wanted until it is forgotten.
func (p *pulse) write(ctx context.Context) (*beat, error) {
	var written *beat
	var at, position decoder.LSN
	var xid int64
	content := p.content()
	args := []any{p.prefix, content}
	err := p.from.Do(ctx, func(conn *pgx.Conn) (err error) {
		if session.Major(conn.PgConn()) >= 14 {
			written = p.want(beatKey{content: content})
			return conn.QueryRow(ctx, beatSQL, args...).Scan(&at, &position, &xid)
		}
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, beatSQL, args...).Scan(&at, &position, &xid); err != nil {
				return err
			}
			written = p.want(beatKey{xid: uint32(xid)})
			return nil
		})
	})
	if err != nil {
		p.forget(written)
		return nil, fmt.Errorf("write the heartbeat on the source: %w", err)
	}
	p.mu.Lock()
	p.lagBytes = max(0, int64(position)-int64(p.applied()))
	p.mu.Unlock()
	return written, nil
}

// beat keeps writing beats, for the lag that status shows.
func (p *pulse) beat(ctx context.Context, interval time.Duration, log *slog.Logger) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last time.Time
	for ; ctx.Err() == nil; wait.Tick(ctx, tick) {
		p.landed(p.applied())
		if time.Since(last) < interval {
			continue
		}
		beat, err := p.write(ctx)
		if err != nil {
			log.Debug("heartbeat", "error", err)
			continue
		}
		last = beat.at
		p.mu.Lock()
		p.underway = append(p.underway, beat)
		p.mu.Unlock()
	}
}

// landed takes the beats that the target has from those under way.
func (p *pulse) landed(applied decoder.LSN) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.underway) > 0 {
		beat := p.underway[0]
		end := decoder.LSN(beat.end.Load())
		if end == 0 || applied < end {
			return
		}
		p.lag = time.Since(beat.at)
		p.underway = p.underway[1:]
		p.remove(beat)
	}
}

// lagNow returns how long the last beat took, or the age of the oldest that is under way if that is
// more. When a run begins nothing is known for a while.
func (p *pulse) lagNow() (lag time.Duration, known bool, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lag = p.lag
	if len(p.underway) > 0 {
		lag = max(lag, time.Since(p.underway[0].at))
	}
	return lag, p.lag > 0 || lag >= time.Second, p.lagBytes
}
