package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// guard is a process that outlives this one, if that dies, and lets go of the clients. It is told by a
// pipe what it has to know, and that there is nothing to do any more; if the pipe ends without that
// we are dead. A pipe ends in whatever way we do.
type guard struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// Order is what a guard has to know of a migration. It holds passwords, and goes by the pipe.
type Order struct {
	Source  string `json:"source"`
	Target  string `json:"target"`
	Name    string `json:"name"`
	Clients Config `json:"clients"`
}

// guardPatience is how long it may take to start.
const guardPatience = 10 * time.Second

// startGuard returns nil if there is to be none.
func startGuard(ctx context.Context, argv []string, o Order) (*guard, error) {
	if len(argv) == 0 {
		return nil, nil
	}
	order, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(environment(), "WALFERRY_LOG_LEVEL="+os.Getenv("WALFERRY_LOG_LEVEL"))
	cmd.Stderr = os.Stderr
	// What ends us by the terminal, or by our group, must not end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	g := &guard{cmd: cmd, in: in}
	late := time.AfterFunc(guardPatience, func() { cmd.Process.Kill() }) //nolint:errcheck // then it has ended
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })        //nolint:errcheck // as above
	_, err = in.Write(append(order, '\n'))
	if err == nil {
		_, err = bufio.NewReader(out).ReadString('\n')
	}
	if !late.Stop() || !stop() || err != nil {
		g.end()
		return nil, fmt.Errorf("start the guard: %w", errors.Join(context.Cause(ctx), err))
	}
	return g, nil
}

// environment is ours without walferry's options: the order has what is needed of them.
func environment() (env []string) {
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "WALFERRY_") {
			env = append(env, pair)
		}
	}
	return env
}

// hook notes which process group a hook runs in; 0: none.
func (g *guard) hook(group int) {
	if g != nil {
		fmt.Fprintf(g.in, "hook %d\n", group) //nolint:errcheck // a guard that has died is missed when the clients are let go
	}
}

// end dismisses the guard.
func (g *guard) end() {
	if g == nil {
		return
	}
	io.WriteString(g.in, "done\n") //nolint:errcheck // it may have ended
	g.in.Close()
	late := time.AfterFunc(guardPatience, func() { g.cmd.Process.Kill() }) //nolint:errcheck // as above
	g.cmd.Wait()                                                           //nolint:errcheck // how it ends is of no importance
	late.Stop()
}

// Await is the guard's side: it reads the order, and returns when whoever has started this process
// has died. died is false if there is nothing to do. What ends processes politely does not end it.
func Await(in io.Reader, out io.Writer) (o Order, died bool, err error) {
	lines := bufio.NewReader(in)
	text, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err == nil {
		_, err = io.WriteString(out, "ready\n")
	}
	if err != nil {
		return o, false, fmt.Errorf("read what is to be guarded: %w", err)
	}
	group := 0
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "done":
			return o, false, nil
		case "hook":
			group, _ = strconv.Atoi(rest)
		}
	}
	if group > 1 { // a hook that nobody waits for must not act against what is done now
		syscall.Kill(-group, syscall.SIGKILL) //nolint:errcheck // it may have ended
	}
	return o, true, nil
}
