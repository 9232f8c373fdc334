package main

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/web"
)

func listenFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "listen", Usage: "address, such as 127.0.0.1:8085, where a browser sees the migration, and Prometheus its metrics"},
		&cli.StringFlag{Name: "listen-token-file", Usage: "file with the token that readers must know; needed where --listen is no loopback address"},
		&cli.StringFlag{Name: "listen-tls-cert", Usage: "file with the certificate for --listen"},
		&cli.StringFlag{Name: "listen-tls-key", Usage: "file with its key"},
	}
}

// access is where to listen, and for whom.
func (s *settings) access() web.Access {
	return web.Access{Address: s.text("listen"), TokenFile: s.text("listen-token-file"), TLSCert: s.text("listen-tls-cert"), TLSKey: s.text("listen-tls-key")}
}

// shown is a migration for web.
func shown(c migration.Config) web.Migration {
	key := cmp.Or(c.Name, "default")
	source, target := session.Config{DSN: c.Source, Application: key + " serve"}, session.Config{DSN: c.Target, Application: key + " serve"}
	return web.Migration{
		Key:    key,
		Read:   func(ctx context.Context) (status.Status, error) { return migration.ReadStatus(ctx, c) },
		Tables: func(ctx context.Context) ([]status.Table, error) { return status.Tables(ctx, target, key) },
		Look:   func(ctx context.Context) (*ready.Looked, error) { return ready.Look(ctx, source, target, key) },
	}
}

// listen shows migrations, if that is wanted; the returned function ends it.
func (u *ui) listen(access web.Access, began func() time.Time, migrations ...web.Migration) (end func(), err error) {
	if access.Address == "" {
		if access.TokenFile != "" || access.TLSCert != "" || access.TLSKey != "" {
			return nil, &fail.Error{Kind: fail.Usage, Problem: "--listen-token-file, --listen-tls-cert and --listen-tls-key need --listen", Advice: "give the address, such as --listen 127.0.0.1:8085"}
		}
		return func() {}, nil
	}
	server, err := web.Open(web.Config{Access: access, Migrations: migrations, Began: began, Version: toolVersion(), Clean: u.redact, Logger: u.logger})
	if err != nil {
		return nil, err
	}
	u.note("the migration can be watched at %s", server.URL())
	return server.Close, nil
}

// redact masks the secrets that are known by now.
func (u *ui) redact(text string) string {
	u.mu.Lock()
	redactor := u.redactor
	u.mu.Unlock()
	return redactor.Text(text)
}

// began is when this process has begun to run the migration.
type began struct{ at atomic.Pointer[time.Time] }

func (b *began) now() {
	at := time.Now()
	b.at.Store(&at)
}

// when is the zero time if it has not.
func (b *began) when() (at time.Time) {
	if p := b.at.Load(); p != nil {
		at = *p
	}
	return at
}

func serveCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "show a page, metrics and JSON of where the migration stands, from any host; of several, if their configuration files are given",
		ArgsUsage: "[FILE...]",
		Flags:     listenFlags(),
		Description: "It reads what 'walferry status' reads, and changes nothing. It runs until it is stopped. Without --listen it listens on 127.0.0.1:8085.\n" +
			"Each FILE is a configuration file as of --config.",
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			access := s.access()
			if access.Address == "" {
				access.Address = "127.0.0.1:8085"
			}
			migrations, err := served(ui, s, c.Args().Slice())
			if err != nil {
				return err
			}
			end, err := ui.listen(access, nil, migrations...)
			if err != nil {
				return err
			}
			defer end()
			<-c.Context.Done()
			return nil
		},
	}
}

// served are the migrations that serve shows: that of the options, or those of the files.
func served(ui *ui, s *settings, files []string) (all []web.Migration, err error) {
	each := []*settings{s}
	if len(files) > 0 {
		each = nil
	}
	for _, path := range files {
		f, err := readFile(path)
		if err != nil {
			return nil, err
		}
		each = append(each, &settings{flags: s.flags, file: f})
	}
	keys := map[string]int{}
	for _, one := range each {
		text := func(name string) string { return one.text(name) }
		if len(files) > 0 { // which tell them apart, whatever the environment has
			text = func(name string) string { return cmp.Or(one.file.text(name), s.text(name)) }
		}
		c := migration.Config{Source: text("source"), Target: text("target"), Name: text("name"), Logger: ui.logger}
		ui.hide(c.Source, c.Target)
		if err := c.Valid(); err != nil {
			return nil, err
		}
		m := shown(c)
		if keys[m.Key]++; keys[m.Key] > 1 { // of another target
			m.Key = fmt.Sprintf("%s-%d", m.Key, keys[m.Key])
		}
		all = append(all, m)
	}
	return all, nil
}
