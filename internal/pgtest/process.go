package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// guardScript starts a server that does not outlive this process. Beside the server it leaves a
// guard that reads from a pipe of which this process has the other end: a line means that the
// server has ended and the guard may go; the end of the pipe means that this process is gone, in
// whatever way, and then the guard stops the server and removes its folder. The guard is there
// before the server is, so that there is no moment without it, and it is not the server's child,
// since a postmaster minds children that it does not know.
//
// Arguments: the folder to remove or an empty one, then the server's command. Descriptors: 0 is the
// guard's pipe, 3 stays open in the server's processes.
const guardScript = `
remove=$1; shift
server=$$
exec 4<&0 </dev/null
( (
	exec 3>&-
	if read -r _ <&4; then exit 0; fi
	kill -s QUIT "$server"
	n=0
	while kill -s 0 "$server" && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
	kill -s KILL "$server"
	[ -z "$remove" ] || rm -rf -- "$remove"
) >/dev/null 2>&1 & )
exec "$@" 4<&-
`

// process is a running postmaster, with its guard and its children.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the postmaster has ended
	empty chan struct{} // closed when none of its children is left either
	err   error         // how the postmaster ended; to be read after ended
}

// startProcess starts postgres on a data directory, appending to its log. remove is the folder that
// goes away with this process; empty for none.
func startProcess(b binaries, a account, dataDir, log, remove string) (*process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	if err := a.own(log); err != nil {
		return nil, err
	}
	guard, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer guard.Close()
	// Every process of the server inherits the write end of this one and none closes it: the read
	// end meets its end when the last one is gone.
	lives, life, err := os.Pipe()
	if err != nil {
		hold.Close()
		return nil, err
	}
	defer life.Close()

	p := &process{
		cmd:   exec.Command("/bin/sh", "-c", guardScript, "walferry-pgtest", remove, filepath.Join(b.bin, "postgres"), "-D", dataDir),
		ended: make(chan struct{}),
		empty: make(chan struct{}),
	}
	p.cmd.Env, p.cmd.Dir = b.env(), dataDir
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = guard, output, output
	p.cmd.ExtraFiles = []*os.File{life}
	a.run(p.cmd)
	if err := p.cmd.Start(); err != nil {
		hold.Close()
		lives.Close()
		return nil, fmt.Errorf("start postgres: %w", err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
		// An error means that the guard is gone already.
		_, _ = io.WriteString(hold, "ended\n")
		hold.Close()
	}()
	go func() {
		defer close(p.empty)
		_, _ = io.Copy(io.Discard, lives)
		lives.Close()
	}()
	return p, nil
}

// running reports whether the postmaster is running.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// stop sends a signal to the postmaster and waits until it and all of its children are gone.
func (p *process) stop(ctx context.Context, signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	for _, gone := range []chan struct{}{p.ended, p.empty} {
		select {
		case <-gone:
		case <-ctx.Done():
			return fmt.Errorf("wait until the server has ended: %w", context.Cause(ctx))
		}
	}
	return nil
}
