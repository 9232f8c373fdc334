package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/internal/clients"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
)

// clientFlags say who is steered at a switch, and how.
func clientFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "hook", Usage: "program or http(s) address that is called at each moment of a switch and may refuse it; repeatable"},
		&cli.StringFlag{Name: "hook-secret-file", Usage: "file with the secret that signs what is posted to a hook"},
		&cli.StringFlag{Name: "hook-timeout", Usage: "how long a hook may take", DefaultText: "10s"},
		&cli.StringSliceFlag{Name: "pgbouncer", Usage: "admin console of a PgBouncer that holds its clients while a switch is made; repeatable, one for each instance"},
		&cli.StringSliceFlag{Name: "pgbouncer-database", Usage: "its name for the database, as in app; app=NAME or app='host=... port=...' where PgBouncer finds it elsewhere on the new server than --target; repeatable"},
		&cli.StringSliceFlag{Name: "pgbouncer-ini", Usage: "its file with that database, which is changed; without it a hook leads the clients elsewhere; repeatable"},
		&cli.StringFlag{Name: "hold-timeout", Usage: "how long clients may be kept waiting for a transaction that is open", DefaultText: "5s"},
	}
}

// clients returns what the settings say of them.
func (s *settings) clients() (c clients.Config, err error) {
	c = clients.Config{Hooks: s.list("hook"), PgBouncer: s.list("pgbouncer"), Databases: s.list("pgbouncer-database"), Files: s.list("pgbouncer-ini")}
	if c.HookTimeout, err = s.duration("hook-timeout"); err != nil {
		return c, err
	}
	if c.HoldTimeout, err = s.duration("hold-timeout"); err != nil {
		return c, err
	}
	if c.HookTimeout < 0 || c.HoldTimeout < 0 {
		return c, &fail.Error{Kind: fail.Usage, Problem: "--hook-timeout and --hold-timeout must not be negative", Advice: "give a duration such as 30s"}
	}
	if path := s.text("hook-secret-file"); path != "" {
		if c.HookSecret, err = readSecret(path); err != nil {
			return c, err
		}
	}
	if program, err := os.Executable(); err == nil {
		c.Guard = []string{program, guardName}
	}
	return c, nil
}

func readSecret(path string) ([]byte, error) {
	wrong := func(what string) error {
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--hook-secret-file %s: %s", path, what), Advice: "give a file with one line, which only its owner can read"}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, wrong(errors.Unwrap(err).Error())
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, wrong(err.Error())
	}
	secret := clients.TrimSecret(text)
	if len(secret) == 0 {
		return nil, wrong("it is empty")
	}
	return secret, nil
}

// guardName is the command of the process that lets go of clients when a migrate has died. It is not
// for people.
const guardName = "guard-clients"

func guardCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: guardName, Hidden: true,
		Action: func(*cli.Context) error {
			// What ends the migrate must not end this; it ends by itself.
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			order, died, err := clients.Await(os.Stdin, os.Stdout)
			if err != nil || !died {
				return err
			}
			ui.hide(append([]string{order.Source, order.Target}, order.Clients.PgBouncer...)...)
			if err := ui.setLog(os.Getenv(variable("log-level")), "", order.Name); err != nil {
				return err
			}
			// It has no guard of its own: whom it leaves held is in the record.
			return migration.Rescue(context.Background(), migration.Config{
				Source: order.Source, Target: order.Target, Name: order.Name, Clients: order.Clients,
				ToolVersion: toolVersion(), Logger: ui.logger,
			})
		},
	}
}
