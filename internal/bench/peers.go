package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// streamPeer is what follows in another way than by a slot of pgoutput.
type streamPeer struct {
	name    string
	program string                                                                       // on PATH; without it the workload is left out
	prepare func(b *bench, ctx context.Context, source string) error                     // before the backlog is written; an error leaves the workload out
	follow  func(b *bench, ctx context.Context, source, target, end string) (run, error) // the backlog, to the end of its last transaction
}

const (
	peerSlot     = "bench_peer"
	peerBacklogs = "bench_peer_base"
)

var pgcopydb = streamPeer{name: "pgcopydb follow", program: "pgcopydb", prepare: (*bench).preparePgcopydb, follow: (*bench).followPgcopydb}

func (b *bench) preparePgcopydb(ctx context.Context, source string) error {
	// Newer minor releases, 15.20 among them, ask for the plugins that may be used; older ones know
	// no such parameter.
	trusted, err := text(ctx, source, `select coalesce((select setting from pg_settings where name = 'output_plugin_libraries'), '')`)
	if err != nil {
		return err
	}
	if trusted != "" && !strings.Contains(trusted, "wal2json") {
		err := execute(ctx, source, `alter system set output_plugin_libraries = `+trusted+`, wal2json`, `select pg_reload_conf()`, `select pg_sleep(0.1)`)
		if err != nil {
			return err
		}
	}
	return execute(ctx, source, `select pg_create_logical_replication_slot('`+peerBacklogs+`', 'wal2json')`)
}

// followPgcopydb is pgcopydb follow, of version 0.10: it reads wal2json, and begins where its
// sentinel says.
func (b *bench) followPgcopydb(ctx context.Context, source, target, end string) (r run, err error) {
	err = execute(ctx, source, `select pg_copy_logical_replication_slot('`+peerBacklogs+`', '`+peerSlot+`')`)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.dropSlot(ctx, source, peerSlot)) }()
	dir, err := os.MkdirTemp("", "walferry-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	start, err := text(ctx, source, `select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '`+peerSlot+`'`)
	if err != nil {
		return r, err
	}
	for _, args := range [][]string{
		{"stream", "sentinel", "create", "--startpos", start, "--endpos", end},
		{"stream", "sentinel", "set", "apply"},
		{"follow", "--dir", filepath.Join(dir, "work"), "--slot-name", peerSlot, "--origin", "bench", "--not-consistent", "--resume", "--endpos", end},
	} {
		r, err = b.runProgram(ctx, "pgcopydb", []string{"TMPDIR=" + dir, "PGCOPYDB_SOURCE_PGURI=" + source, "PGCOPYDB_TARGET_PGURI=" + target}, "pgcopydb", args...)
		if err != nil {
			return r, err
		}
	}
	return r, execute(ctx, target, `select pg_replication_origin_drop('bench')`)
}
