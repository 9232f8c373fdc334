package migration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// messages is the prefix of the logical messages that walferry writes; a migration's name follows.
const messages = "walferry/"

// OwnMessage reports whether a logical message with this prefix is walferry's own.
func OwnMessage(prefix string) bool { return strings.HasPrefix(prefix, messages) }

// beat is a sign that goes through the stream: a transaction of the source that changes
// nothing, and holds a logical message. It is in no table, so that nobody else who reads the
// source is sent anything. The stream delivers it, from 14 on by its message; before, pgoutput sends no messages,
// but every transaction that has written to the WAL, and it is known by its id.
type beat struct {
	key beatKey
	at  time.Time     // when it was written, by this process's clock
	end atomic.Uint64 // where its transaction ends, once the stream has delivered it; 0: not yet
}

// beatKey is one of both.
type beatKey struct {
	content string
	xid     uint32
}

// beats are those that somebody waits for.
type beats struct {
	run uint64 // differs from that of every other run, whose messages may still come

	mu     sync.Mutex
	number int
	wanted map[beatKey]*beat
}

func newBeats() *beats { return &beats{run: rand.Uint64(), wanted: map[beatKey]*beat{}} }

// content is that of the next message.
func (b *beats) content() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.number++
	return fmt.Sprintf("%016x %d", b.run, b.number)
}

// want has to be called before the beat's commit: it may come back before the commit's answer.
func (b *beats) want(key beatKey) *beat {
	beat := &beat{key: key, at: time.Now()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted[key] = beat
	return beat
}

func (b *beats) forget(beat *beat) {
	if beat == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wanted[beat.key] == beat {
		delete(b.wanted, beat.key)
	}
}

// empty reports whether a transaction without changes is a beat.
func (b *beats) empty(xid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wanted[beatKey{xid: xid}] != nil
}

// saw notes where a transaction ends if it is a beat.
func (b *beats) saw(tx *decoder.Tx) {
	if len(tx.Changes) > 0 || !tx.First || !tx.Last || tx.XID == 0 {
		return
	}
	key := beatKey{xid: tx.XID}
	if len(tx.Messages) > 0 {
		key = beatKey{content: string(tx.Messages[0].Content)}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if beat := b.wanted[key]; beat != nil {
		beat.end.Store(uint64(tx.EndLSN))
	}
}

// hear makes a stream deliver the beats.
func (f *following) hear(c *decoder.Config) {
	prefix := messages + f.r.c.Name
	c.Messages = func(p string) bool { return p == prefix }
	c.Empty = f.beats.empty
}

const beatSQL = `select pg_logical_emit_message(true, $1, $2)::text, pg_current_wal_lsn()::text, txid_current()`

// writeBeat writes one on the source. It is wanted until it is forgotten.
func (f *following) writeBeat(ctx context.Context) (*beat, error) {
	var written *beat
	var at, position decoder.LSN
	var xid int64
	content := f.beats.content()
	args := []any{messages + f.r.c.Name, content}
	err := f.r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		if session.Major(conn.PgConn()) >= 14 {
			written = f.beats.want(beatKey{content: content})
			return conn.QueryRow(ctx, beatSQL, args...).Scan(&at, &position, &xid)
		}
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, beatSQL, args...).Scan(&at, &position, &xid); err != nil {
				return err
			}
			written = f.beats.want(beatKey{xid: uint32(xid)})
			return nil
		})
	})
	if err != nil {
		f.beats.forget(written)
		return nil, fmt.Errorf("write the heartbeat on the source: %w", err)
	}
	f.mu.Lock()
	f.lagBytes = max(0, int64(position)-int64(f.applier.Applied()))
	f.mu.Unlock()
	return written, nil
}

// canary writes a beat on the source and waits until it has come back through the
// stream and the target is durable up to its end; that, and nothing less, shows that the
// target has everything that was committed before. It returns the time of the trip.
//
// What it does not show is that the publication still holds what it should: a message comes through
// whatever becomes of that.
func (f *following) canary(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	beat, err := f.writeBeat(ctx)
	if err != nil {
		return 0, err
	}
	defer f.beats.forget(beat)
	err = wait.Until(ctx, wait.Pauses{First: 2 * time.Millisecond, Longest: 50 * time.Millisecond}, func() (bool, error) {
		end := decoder.LSN(beat.end.Load())
		if end == 0 {
			return false, nil
		}
		applied, err := f.r.applied(ctx)
		return err == nil && applied >= end, nil
	})
	return time.Since(began), err
}

// pause makes the applier stand still where it is, with 0, or once it has applied exactly
// what committed before lsn.
func (f *following) pause(ctx context.Context, lsn decoder.LSN) (decoder.LSN, error) {
	if lsn != 0 {
		// Only something at or past lsn shows that nothing before it is still to come.
		beat, err := f.writeBeat(ctx)
		if err != nil {
			return 0, err
		}
		defer f.beats.forget(beat)
	}
	return f.applier.Pause(ctx, lsn)
}

// heartbeats keeps the canary going, for the lag that status shows.
func (f *following) heartbeats(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last time.Time
	for ; ctx.Err() == nil; waitTick(ctx, tick) {
		f.landed(f.applier.Applied())
		if time.Since(last) < f.r.c.Heartbeat {
			continue
		}
		beat, err := f.writeBeat(ctx)
		if err != nil {
			f.r.c.Logger.Debug("heartbeat", "error", err)
			continue
		}
		last = beat.at
		f.mu.Lock()
		f.underway = append(f.underway, beat)
		f.mu.Unlock()
	}
}

// landed takes the beats from those under way that the target has.
func (f *following) landed(applied decoder.LSN) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.underway) > 0 {
		beat := f.underway[0]
		end := decoder.LSN(beat.end.Load())
		if end == 0 || applied < end {
			return
		}
		f.lag = time.Since(beat.at)
		f.underway = f.underway[1:]
		f.beats.forget(beat)
	}
}

// lagNow is the trip of the last heartbeat, or the age of the oldest that is under
// way when that is more. Of a run that begins nothing is known for a while.
func (f *following) lagNow() (lag time.Duration, known bool) {
	lag = f.lag
	if len(f.underway) > 0 {
		lag = max(lag, time.Since(f.underway[0].at))
	}
	return lag, f.lag > 0 || lag >= time.Second
}
