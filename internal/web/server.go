// Package web shows where migrations stand: a page, metrics, and answers for programs. It reads what `walferry status` reads, and changes
// nothing.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/walferry/walferry/internal/metrics"
	"github.com/walferry/walferry/internal/status"
)

// Config says what is shown.
type Config struct {
	Access
	Migrations []Migration
	// Began is when this process has begun to run the one migration that there is; the zero time: it has not. nil: it only looks.
	Began   func() time.Time
	Version string
	// Clean masks secrets in everything that is shown.
	Clean  func(string) string
	Logger *slog.Logger
}

// Server shows migrations until it is closed.
type Server struct {
	c        Config
	listener net.Listener
	http     *http.Server
	views    []*view
	streams  chan struct{} // has room for as many event streams as there may be
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// mostStreams is how many pages may be open at a time.
const mostStreams = 100

// Open listens, and shows the migrations from now on. An error is one of usage.
func Open(c Config) (*Server, error) {
	l, err := c.open()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{c: c, listener: l, stop: stop, streams: make(chan struct{}, mostStreams)}
	for _, m := range c.Migrations {
		s.views = append(s.views, newView(m, c.Clean, c.Logger))
	}
	s.http = &http.Server{
		Handler: s.c.guard(s.routes()), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug),
	}
	for _, v := range s.views {
		s.running.Go(func() { v.run(ctx) })
	}
	s.running.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			c.Logger.Error("show the migration", "error", err)
		}
	})
	return s, nil
}

// URL is where a browser on this host finds the page.
func (s *Server) URL() string {
	scheme := "http"
	if s.c.certificate != nil {
		scheme = "https"
	}
	address := s.listener.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(address.Port)) + "/"
}

// Close ends everything, also pages that are open.
func (s *Server) Close() {
	s.stop()
	s.http.Close() //nolint:errcheck // nothing of it is needed any more
	s.running.Wait()
}

// routes are the paths. Those of one migration are at the root if there is no other.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(&metrics.Collector{Version: s.c.Version, Now: func() (all []metrics.Migration) {
		for _, v := range s.views {
			m := v.known()
			all = append(all, m)
		}
		return all
	}})
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", s.healthz)
	for _, v := range s.views {
		at := "/m/" + v.Key
		if len(s.views) == 1 {
			at = ""
		}
		s.shows(mux, at, v)
	}
	if len(s.views) > 1 {
		mux.HandleFunc("/{$}", s.index)
		mux.HandleFunc("/status", s.statuses)
		mux.HandleFunc("/readyz", s.allReady)
		mux.Handle("/assets/", assets(""))
	}
	return mux
}

// shows adds the paths of one migration.
func (s *Server) shows(mux *http.ServeMux, at string, v *view) {
	mux.HandleFunc(at+"/readyz", func(w http.ResponseWriter, r *http.Request) { s.readyz(w, r, v) })
	mux.HandleFunc(at+"/status", func(w http.ResponseWriter, r *http.Request) {
		v.fresh(r.Context())
		v.mu.Lock()
		text, problem := v.text, v.problem
		v.mu.Unlock()
		if problem != "" {
			w.Header().Set("X-Walferry-Problem", strconv.QuoteToASCII(problem))
		}
		if text == nil {
			answer(w, http.StatusServiceUnavailable, map[string]string{"error": "the migration was not read yet", "problem": problem})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(append(text, '\n')) //nolint:errcheck // whoever asked may be gone
	})
	mux.HandleFunc(at+"/tables", func(w http.ResponseWriter, r *http.Request) { v.serveTables(w, r) })
	mux.HandleFunc(at+"/history", func(w http.ResponseWriter, _ *http.Request) {
		v.mu.Lock()
		c := v.history.columns()
		v.mu.Unlock()
		answer(w, http.StatusOK, c)
	})
	mux.HandleFunc(at+"/events", func(w http.ResponseWriter, r *http.Request) { s.events(w, r, v) })
	mux.HandleFunc(at+"/{$}", servePage)
	mux.Handle(at+"/assets/", assets(at))
}

// answer writes a value as JSON.
func answer(w http.ResponseWriter, code int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(append(text, '\n')) //nolint:errcheck // whoever asked may be gone
}

// healthz says whether the process does what it is for: it answers, and if it runs a migration it has that migration's lock, as was seen when
// it was read last.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	code, word := http.StatusOK, "ok"
	if s.c.Began != nil {
		v := s.views[0]
		v.mu.Lock()
		if began := s.c.Began(); !began.IsZero() && v.problem == "" && v.at.After(began) && !v.status.Running {
			code, word = http.StatusServiceUnavailable, "this process does not have the lock of its migration"
		}
		v.mu.Unlock()
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, word)
}

// readyz says whether a cutover may be asked for, and what each gate says, after a look at both servers that is not older than a minute.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request, v *view) {
	v.fresh(r.Context())
	v.mu.Lock()
	v.asked = time.Now()
	follows := v.status != nil && v.status.Phase == "following"
	v.mu.Unlock()
	if follows {
		v.look(r.Context())
	}
	v.mu.Lock()
	report := v.ready()
	v.mu.Unlock()
	code := http.StatusOK
	if !report.Ready {
		code = http.StatusServiceUnavailable
	}
	if !s.c.knows(r) {
		w.WriteHeader(code)
		return
	}
	answer(w, code, report)
}

// allReady says whether all of several migrations are.
func (s *Server) allReady(w http.ResponseWriter, r *http.Request) {
	code, all := http.StatusOK, map[string]bool{}
	for _, v := range s.views {
		v.mu.Lock()
		v.asked = time.Now()
		all[v.Key] = v.ready().Ready
		v.mu.Unlock()
		if !all[v.Key] {
			code = http.StatusServiceUnavailable
		}
	}
	if !s.c.knows(r) {
		w.WriteHeader(code)
		return
	}
	answer(w, code, all)
}

// statuses are those of several migrations, by their keys.
func (s *Server) statuses(w http.ResponseWriter, _ *http.Request) {
	all := map[string]json.RawMessage{}
	for _, v := range s.views {
		v.mu.Lock()
		all[v.Key] = json.RawMessage("null")
		if v.text != nil {
			all[v.Key] = v.text
		}
		v.mu.Unlock()
	}
	answer(w, http.StatusOK, all)
}

// serveTables answers with the tables that have changed since a version, and the version of now.
func (v *view) serveTables(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.Atoi(r.URL.Query().Get("since"))
	if err != nil {
		since = 0
	}
	changed := struct {
		Version int            `json:"version"`
		Count   int            `json:"count"`
		Tables  []status.Table `json:"tables"`
	}{Tables: []status.Table{}}
	v.mu.Lock()
	if since > v.version { // of a server before this one
		since = 0
	}
	changed.Version, changed.Count = v.version, len(v.tables)
	for i := range v.tables {
		if t := &v.tables[i]; t.version > since {
			changed.Tables = append(changed.Tables, t.Table)
		}
	}
	v.mu.Unlock()
	answer(w, http.StatusOK, changed)
}
