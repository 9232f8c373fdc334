package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// bucardo is Bucardo 5, whose triggers write down the keys that change. Its own database lies on
// the source's server, which needs PL/Perl.
var bucardo = streamPeer{name: "Bucardo", program: "bucardo", prepare: (*bench).prepareBucardo, follow: (*bench).followBucardo}

// bucardoDatabase is where Bucardo keeps what it is to do.
const bucardoDatabase = "bucardo"

// prepareBucardo installs Bucardo, and its triggers on the source.
func (b *bench) prepareBucardo(ctx context.Context, source string) error {
	target, err := b.fresh(ctx, b.target, "target", "template") // Bucardo looks at both sides
	if err != nil {
		return err
	}
	if err := execute(ctx, b.source.URL("postgres"), `drop database if exists `+bucardoDatabase+` with (force)`, `drop role if exists bucardo`); err != nil {
		return err
	}
	err = b.bucardo(ctx, "", "install", "--batch", "--dbname=postgres", "--dbuser="+b.source.User)
	if err != nil {
		return err
	}
	for _, side := range []struct{ name, dsn string }{{"source", source}, {"target", target}} {
		u, err := url.Parse(side.dsn)
		if err != nil {
			return err
		}
		err = b.bucardo(ctx, "", "add", "db", side.name, "dbname="+side.name, "host="+u.Hostname(), "port="+u.Port(), "user="+u.User.Username())
		if err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"add", "all", "tables", "db=source", "relgroup=bench"},
		{"add", "sync", "bench", "relgroup=bench", "dbs=source,target", "autokick=0"},
		{"set", "bucardo_vac=0"}, // which takes away what was brought: each run is to bring all of it
	} {
		if err := b.bucardo(ctx, "", args...); err != nil {
			return err
		}
	}
	return nil
}

// hideBucardo puts away what the triggers wrote down, and showBucardo brings it back.
const (
	hideBucardo = `do $$ declare d text; begin
for d in select substr(relname, 7) from pg_class where relnamespace = 'bucardo'::regnamespace and relname like 'delta\_public\_%' loop
  execute format('create table if not exists bucardo.%I as table bucardo.%I', 'kept_' || d, 'delta_' || d);
  execute format('truncate bucardo.%I, bucardo.%I', 'delta_' || d, 'track_' || d);
end loop; end $$`
	showBucardo = `do $$ declare d text; begin
for d in select substr(relname, 6) from pg_class where relnamespace = 'bucardo'::regnamespace and relname like 'kept\_public\_%' loop
  execute format('insert into bucardo.%I table bucardo.%I', 'delta_' || d, 'kept_' || d);
  execute format('analyze bucardo.%I', 'delta_' || d);
end loop; end $$`
)

// followBucardo brings all that the triggers have written down. The time begins when its processes
// are ready.
func (b *bench) followBucardo(ctx context.Context, source, target, _ string) (r run, err error) {
	dir, err := os.MkdirTemp("", "walferry-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	if err := execute(ctx, source, hideBucardo); err != nil {
		return r, err
	}
	if err := b.bucardo(ctx, dir, "set", "reason_file="+filepath.Join(dir, "reason")); err != nil {
		return r, err
	}
	if err := b.bucardo(ctx, dir, "start"); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, b.stopBucardo(context.WithoutCancel(ctx), dir)) }()
	// A kick that comes before they listen is lost.
	for begun := time.Now(); ; {
		if err = b.bucardo(ctx, dir, "kick", "bench", "5"); err == nil {
			break
		}
		if time.Since(begun) > time.Minute || ctx.Err() != nil {
			return r, fmt.Errorf("its processes do not answer: %w", err)
		}
	}
	if err := execute(ctx, source, showBucardo); err != nil {
		return r, err
	}
	kid, err := os.ReadFile(filepath.Join(dir, "bucardo.kid.sync.bench.pid"))
	if err != nil {
		return r, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(kid)))
	if err != nil {
		return r, err
	}
	begun := time.Now()
	kick := b.bucardoCommand(ctx, dir, "kick", "bench", "0") // until it is done
	if err := kick.Start(); err != nil {
		return r, err
	}
	ended := make(chan error, 1)
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		ended <- kick.Wait()
		time.AfterFunc(10*time.Second, stop) // what it says is done must be visible
	}()
	r.took, err = awaitDone(waiting, target, begun, nil)
	r.tool = usageOf(pid)
	return r, errors.Join(err, <-ended)
}

// stopBucardo waits until its processes have ended.
func (b *bench) stopBucardo(ctx context.Context, dir string) error {
	if err := b.bucardo(ctx, dir, "stop"); err != nil {
		return err
	}
	for range 600 {
		files, err := filepath.Glob(filepath.Join(dir, "*.pid"))
		if err != nil || len(files) == 0 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("its processes have not ended")
}

// bucardo runs one of its commands to its end.
func (b *bench) bucardo(ctx context.Context, dir string, args ...string) error {
	cmd := b.bucardoCommand(ctx, dir, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("bucardo %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// bucardoCommand is one of its commands; dir is where a running Bucardo keeps its files.
func (b *bench) bucardoCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	if dir == "" {
		dir = os.TempDir()
	}
	all := []string{"--no-bucardorc", "--dbhost=127.0.0.1", "--dbport=" + strconv.Itoa(b.source.Port), "--log-destination=" + dir, "--piddir=" + dir}
	if args[0] != "install" {
		all = append(all, "--dbname="+bucardoDatabase, "--dbuser=bucardo")
	}
	cmd := exec.CommandContext(ctx, "bucardo", append(all, args...)...)
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second // its daemons may keep what it writes to open
	return cmd
}
