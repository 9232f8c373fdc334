package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// createDatabase makes the database that is moved, or moved to.
func createDatabase(ctx context.Context, s *pgtest.Server) (string, error) {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `create database app`); err != nil {
		return "", err
	}
	return s.URL("app"), nil
}

func (d *demo) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if d.color {
		text = "\x1b[1m" + text + "\x1b[0m"
	}
	fmt.Println(text)
}

// prepare shows a command line and makes the command.
func (d *demo) prepare(ctx context.Context, args ...string) *exec.Cmd {
	d.say("\n$ walferry %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.walferry, args...)
	cmd.Env = append(os.Environ(), "WALFERRY_SOURCE="+d.source, "WALFERRY_TARGET="+d.target)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// command runs walferry to its end and shows what it prints.
func (d *demo) command(ctx context.Context, args ...string) error {
	cmd := d.prepare(ctx, args...)
	out := &indented{to: os.Stdout, prefix: "  "}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	out.flush()
	if err != nil {
		return fmt.Errorf("walferry %s: %w", args[0], err)
	}
	return nil
}

// background is a walferry that runs beside the others.
type background struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// begin starts walferry; its lines are shown among those of the others.
func (d *demo) begin(ctx context.Context, args ...string) (*background, error) {
	cmd := d.prepare(ctx, args...)
	out := &indented{to: os.Stdout, prefix: "  migrate | "}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b := &background{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.err = cmd.Wait()
		out.flush()
	}()
	return b, nil
}

func (b *background) wait() error {
	<-b.done
	return b.err
}

func (b *background) stop() {
	select {
	case <-b.done:
	default:
		b.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended meanwhile
		<-b.done
	}
}

// waitFollowing asks status until the target follows.
func (d *demo) waitFollowing(ctx context.Context, migrate *background) error {
	for {
		select {
		case <-migrate.done:
			return errNotFollowing
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
		cmd := exec.CommandContext(ctx, d.walferry, "status", "--json")
		cmd.Env = append(os.Environ(), "WALFERRY_SOURCE="+d.source, "WALFERRY_TARGET="+d.target)
		text, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 4 { // migrate has not recorded it yet
			continue
		}
		if err != nil {
			return fmt.Errorf("walferry status: %w", err)
		}
		var st migration.Status
		if err := json.Unmarshal(text, &st); err != nil {
			return fmt.Errorf("read walferry status: %w", err)
		}
		if st.Phase == migration.Following && st.Stream.LagSeconds != nil && *st.Stream.LagSeconds < 1 {
			return nil
		}
	}
}

// indented writes whole lines, each behind a prefix.
type indented struct {
	to     io.Writer
	prefix string

	mu   sync.Mutex
	rest []byte
}

func (w *indented) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		fmt.Fprintf(w.to, "%s%s\n", w.prefix, line)
		w.rest = rest
	}
}

func (w *indented) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		fmt.Fprintf(w.to, "%s%s\n", w.prefix, w.rest)
		w.rest = nil
	}
}
