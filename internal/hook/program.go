package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lingering is how long a program has after SIGTERM, and its output after its end: a program that it
// has left in the background may still hold that.
const lingering = 500 * time.Millisecond

// outputLimit is how much of what a program prints is logged.
const outputLimit = 64 << 10

func findProgram(path string) error {
	_, err := exec.LookPath(path)
	var wrapped *exec.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return err
}

// run runs a program. It is killed with everything that it has started when ctx ends.
func (c *Caller) run(ctx context.Context, path string, p Payload, body []byte) error {
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdin = bytes.NewReader(body)
	out, errs := &lines{c: c, hook: path, event: p.Event}, &lines{c: c, hook: path, event: p.Event}
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.Env = append(environment(os.Environ()), variables(p)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = lingering
	if err := cmd.Start(); err != nil {
		return errors.Join(findProgram(path), err)
	}
	if c.Running != nil {
		c.Running(cmd.Process.Pid)
		defer c.Running(0)
	}
	err := cmd.Wait()
	out.end()
	errs.end()
	if ctx.Err() != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // there may be nobody left
		return fmt.Errorf("it was killed: %w", timedOut(ctx, c.timeout()))
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // it has ended with 0; something that it has started has its output still
	}
	if err != nil && errs.last != "" {
		return fmt.Errorf("%w: %s", err, errs.last)
	}
	return err
}

// timedOut is why ctx has ended.
func timedOut(ctx context.Context, timeout time.Duration) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return fmt.Errorf("it took longer than it may (%s, or what was left of the switch's time)", timeout)
	}
	return context.Cause(ctx)
}

// environment is ours without what may hold a password: a hook is told what it needs.
func environment(ours []string) (theirs []string) {
	for _, pair := range ours {
		if strings.HasPrefix(pair, "WALFERRY_") || strings.HasPrefix(pair, "PGPASSWORD=") {
			continue
		}
		theirs = append(theirs, pair)
	}
	return theirs
}

// variables tell a program without a JSON parser what is most needed.
func variables(p Payload) []string {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	return []string{
		"WALFERRY_EVENT=" + string(p.Event),
		"WALFERRY_NAME=" + p.Name,
		"WALFERRY_SWITCH=" + p.Switch,
		"WALFERRY_ATTEMPT=" + strconv.Itoa(p.Attempt),
		"WALFERRY_DRY_RUN=" + strconv.FormatBool(p.DryRun),
		"WALFERRY_DEADLINE=" + p.Deadline.UTC().Format(time.RFC3339Nano),
		"WALFERRY_PHASE=" + p.Phase,
		"WALFERRY_OPEN_SIDE=" + p.Open,
		"WALFERRY_SOURCE_HOST=" + p.Source.Host,
		"WALFERRY_SOURCE_PORT=" + strconv.Itoa(p.Source.Port),
		"WALFERRY_SOURCE_DBNAME=" + p.Source.DBName,
		"WALFERRY_SOURCE_VERSION=" + text(p.Source.Version),
		"WALFERRY_TARGET_HOST=" + p.Target.Host,
		"WALFERRY_TARGET_PORT=" + strconv.Itoa(p.Target.Port),
		"WALFERRY_TARGET_DBNAME=" + p.Target.DBName,
		"WALFERRY_TARGET_VERSION=" + text(p.Target.Version),
	}
}

// lines logs what a program prints, line by line.
type lines struct {
	c     *Caller
	hook  string
	event Event

	mu   sync.Mutex
	rest []byte
	told int
	last string // line that was not empty
}

// longest is the length from which a line is cut.
const longest = 1000

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			break
		}
		l.tell(string(line))
		l.rest = rest
	}
	if len(l.rest) > longest {
		l.tell(string(l.rest))
		l.rest = nil
	}
	return len(b), nil
}

func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(string(l.rest))
	l.rest = nil
}

func (l *lines) tell(line string) {
	if line = l.c.mask(line); line == "" {
		return
	}
	if len(line) > longest {
		line = strings.ToValidUTF8(line[:longest], "") + "…"
	}
	l.last = line
	if l.told += len(line); l.told > outputLimit {
		return
	}
	l.c.Logger.Info("hook: "+line, "hook", l.hook, "event", string(l.event))
}
