package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const superuser = "postgres"

// Options describe the server that is wanted. The zero value is the newest major version at hand,
// ready for logical decoding.
type Options struct {
	// Major is the major version, 10 to 19. Zero means the newest one that needs no download.
	Major int

	// Settings are added to the defaults of postgresql.conf, or override them.
	Settings map[string]string

	// Dir is a folder for the data directory and the log; they are kept when the server is closed,
	// and a later Launch with the same Dir continues with the data. Zero means a temporary folder
	// that Close removes; it is in memory where there is plenty, unless Fsync or the environment's
	// TMPDIR is set, so that gigabytes of data, or measurements, want a Dir.
	Dir string

	// Fsync makes commits survive a crash of the machine, as in production. It costs an order of
	// magnitude in small transactions. Without it they survive the end of the server only, in
	// whatever way it ends.
	Fsync bool

	// Password is the superuser's, asked for over TCP (scram-sha-256) and not over the unix socket.
	// Zero means that no password is needed.
	Password string

	// LogTo gets a copy of the server's log, with a short delay. Zero: none.
	LogTo io.Writer
}

// defaults are the settings of a server for tests. Durability is off, as the servers are thrown
// away; everything that a test may use up is ample.
var defaults = map[string]string{
	"wal_level":                 "logical",
	"max_wal_senders":           "20",
	"max_replication_slots":     "20",
	"max_prepared_transactions": "10",
	"max_connections":           "200",
	"shared_buffers":            "64MB",
	"max_wal_size":              "1GB",
	"synchronous_commit":        "on",
	"fsync":                     "off",
	"full_page_writes":          "off",
	"autovacuum":                "on",
	"log_line_prefix":           "%m [%p] %d ",
}

// Server is a PostgreSQL server that this process has started. Its methods may be called by several
// goroutines.
type Server struct {
	Major     int
	Port      int    // on 127.0.0.1; stays the same over restarts
	SocketDir string // folder of the unix socket
	DataDir   string
	User      string // the superuser, "postgres"
	Password  string // empty: none needed

	binaries binaries
	account  account
	settings map[string]string
	logPath  string
	logTo    io.Writer
	temp     string // removed by Close: the socket's folder, and the data where Options.Dir was empty
	keep     bool   // the data is somewhere else and stays

	mu      sync.Mutex // held while the server is started or stopped
	process *process   // nil before the first start
	closed  bool
}

// Launch starts a server. ctx bounds the start, not the server's life: that ends with Close, and at
// the latest with this process.
func Launch(ctx context.Context, o Options) (*Server, error) {
	if o.Major == 0 {
		o.Major = newest()
	}
	return launchMajor(ctx, o, instead(o.Major))
}

// launchMajor is Launch, of that very version.
func launchMajor(ctx context.Context, o Options, major int) (*Server, error) {
	o.Major = major
	s, err := launch(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("launch PostgreSQL %d: %w", o.Major, err)
	}
	return s, nil
}

func launch(ctx context.Context, o Options) (_ *Server, err error) {
	b, err := obtain(ctx, o.Major)
	if err != nil {
		return nil, err
	}
	a, err := serverAccount()
	if err != nil {
		return nil, err
	}
	temp, err := a.tempDir(o.Fsync)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Major: o.Major, SocketDir: temp, User: superuser, Password: o.Password,
		binaries: b, account: a, settings: maps.Clone(defaults), logTo: o.LogTo, temp: temp,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if o.Fsync {
		s.settings["fsync"], s.settings["full_page_writes"] = "on", "on"
	}
	maps.Copy(s.settings, o.Settings)
	if err := s.place(o.Dir); err != nil {
		return nil, err
	}
	version, err := os.ReadFile(filepath.Join(s.DataDir, "PG_VERSION"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := initialize(ctx, b, a, s.DataDir, o.Password); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case strings.TrimSpace(string(version)) != strconv.Itoa(o.Major):
		return nil, fmt.Errorf("%s belongs to PostgreSQL %s", s.DataDir, bytes.TrimSpace(version))
	}
	return s, s.startOnFreePort(ctx)
}

// place decides where data and log are.
func (s *Server) place(dir string) error {
	if dir == "" {
		s.DataDir = filepath.Join(s.temp, "data")
		s.logPath = filepath.Join(s.temp, "log")
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := s.account.own(dir); err != nil {
		return err
	}
	s.keep = true
	s.DataDir, s.logPath = filepath.Join(dir, "data"), filepath.Join(dir, "log")
	if !s.account.canReach(dir) {
		return fmt.Errorf("the server runs as user id %d, who may not enter a folder above %s", s.account.uid, dir)
	}
	return nil
}

// startOnFreePort starts the server for the first time. Between finding a free port and using it
// another process may take it: then it tries the next.
func (s *Server) startOnFreePort(ctx context.Context) error {
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		s.Port = port
		err = s.Start(ctx)
		if err == nil || try == 5 || !strings.Contains(s.Log(), "Address already in use") {
			return err
		}
	}
}

// freePort finds one below those that systems give to outgoing connections: a server that is
// stopped for a moment must find its port free again.
func freePort() (int, error) {
	var err error
	for range 100 {
		port := 15000 + rand.IntN(17000)
		var listener net.Listener
		if listener, err = net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, listener.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}

// URL returns the address of a database of the server for its superuser.
func (s *Server) URL(database string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.User(s.User),
		Host:   net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)),
		Path:   "/" + database,
	}
	if s.Password != "" {
		u.User = url.UserPassword(s.User, s.Password)
	}
	return u.String()
}

// WriteFile puts a file into the data directory, whose owner alone may read it.
func (s *Server) WriteFile(name string, text []byte) error {
	path := filepath.Join(s.DataDir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil { // one that was there before
		return err
	}
	info, err := os.Stat(s.DataDir)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return os.Chown(path, int(owner.Uid), int(owner.Gid))
	}
	return nil
}

// Start starts the server again after Stop or Kill, or after its own end, on the same port and
// data. It returns once connections are accepted, and at once if the server is running.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("the server is closed")
	}
	if s.process.running() {
		return nil
	}
	if err := s.writeSettings(); err != nil {
		return err
	}
	p, err := startProcess(s.binaries, s.account, s.DataDir, s.logPath, s.temp)
	if err != nil {
		return err
	}
	s.process = p
	if s.logTo != nil {
		go follow(s.logPath, s.logTo, p.empty)
	}
	return s.awaitReady(ctx, p)
}

func (s *Server) writeSettings() error {
	own := map[string]string{
		"port":                    strconv.Itoa(s.Port),
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": s.SocketDir,
	}
	maps.Copy(own, s.settings)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(own)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(own[name], "'", "''"))
	}
	path := filepath.Join(s.DataDir, settingsFile)
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	return s.account.own(path)
}

// awaitReady waits until the server accepts connections, as pg_ctl does: by the eighth line of
// postmaster.pid.
func (s *Server) awaitReady(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(s.DataDir, "postmaster.pid"))
		if err == nil {
			lines := strings.Split(string(text), "\n")
			if len(lines) >= 8 && lines[0] == strconv.Itoa(p.cmd.Process.Pid) {
				if state := strings.TrimSpace(lines[7]); state == "ready" || state == "standby" {
					return nil
				}
			}
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return fmt.Errorf("start postgres: %w; its log ends:\n%s", p.err, s.logEnd())
		case <-ctx.Done():
			cause := context.Cause(ctx)
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			return errors.Join(fmt.Errorf("wait for postgres to start: %w; its log ends:\n%s", cause, s.logEnd()), p.stop(stop, syscall.SIGQUIT))
		}
	}
}

// Stop stops the server as pg_ctl does and keeps its data. The modes are "smart", which waits for
// clients to leave, "fast", which sends them away, and "immediate", which leaves recovery to the
// next start. It returns when no process of the server is left; a stopped server stays stopped.
func (s *Server) Stop(ctx context.Context, mode string) error {
	signal, ok := map[string]os.Signal{"smart": syscall.SIGTERM, "fast": syscall.SIGINT, "immediate": syscall.SIGQUIT}[mode]
	if !ok {
		return fmt.Errorf("stop postgres: no mode %q", mode)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(ctx, signal)
}

func (s *Server) stop(ctx context.Context, signal os.Signal) error {
	if s.process == nil {
		return nil
	}
	if err := s.process.stop(ctx, signal); err != nil {
		return fmt.Errorf("stop PostgreSQL %d: %w", s.Major, err)
	}
	return nil
}

// Restart stops the server in mode "fast" and starts it again.
func (s *Server) Restart(ctx context.Context) error {
	if err := s.Stop(ctx, "fast"); err != nil {
		return err
	}
	return s.Start(ctx)
}

// Kill ends the server as a crash would, with SIGKILL for the postmaster, and returns when all of
// its other processes have noticed and are gone.
func (s *Server) Kill() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(ctx, syscall.SIGKILL)
}

// PID returns the process id of the postmaster, zero when it is not running.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.process.running() {
		return 0
	}
	return s.process.cmd.Process.Pid
}

// Close stops the server and removes its files, except those in Options.Dir. Closing twice is
// harmless.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	// What is thrown away needs no checkpoint.
	signal := syscall.SIGQUIT
	if s.keep {
		signal = syscall.SIGINT
	}
	err := s.stop(ctx, signal)
	return errors.Join(err, os.RemoveAll(s.temp))
}
