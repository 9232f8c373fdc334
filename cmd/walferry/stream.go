package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/urfave/cli/v2"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

func streamCommand(ui *ui) *cli.Command {
	return &cli.Command{
		Name: "stream", Usage: "decode a slot to stdout, one transaction per line as JSON; needs only --source",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "slot", Usage: "a pgoutput slot; without it, one is created, and dropped at the end"},
			&cli.StringSliceFlag{Name: "publication", Usage: "publications to decode; repeatable", DefaultText: "walferry_NAME"},
			&cli.StringFlag{Name: "start", Usage: "LSN to begin at", DefaultText: "where the slot stands"},
			&cli.IntFlag{Name: "limit", Usage: "stop after this many transactions", DefaultText: "none"},
			&cli.BoolFlag{Name: "ack", Usage: "acknowledge what was printed, so that the slot advances"},
		},
		Action: func(c *cli.Context) error {
			s, err := load(ui, c)
			if err != nil {
				return err
			}
			source := s.text("source")
			if source == "" {
				return &fail.Error{Kind: fail.Usage, Problem: "no connection string for the source", Advice: "give --source, or WALFERRY_SOURCE, or --config"}
			}
			config := decoder.Config{
				Slot: c.String("slot"), Publications: c.StringSlice("publication"), Logger: ui.logger,
				Messages: func(prefix string) bool { return !flow.OwnMessage(prefix) },
			}
			if len(config.Publications) == 0 {
				name := s.text("name")
				if name == "" {
					name = "default"
				}
				config.Publications = []string{"walferry_" + name}
			}
			if start := c.String("start"); start != "" {
				if config.Start, err = pglogrepl.ParseLSN(start); err != nil {
					return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("--start %q is not an LSN", start), Advice: "an LSN looks like 16/B374D848; `select pg_current_wal_lsn()` shows one"}
				}
			}
			if c.Int("limit") < 0 {
				return &fail.Error{Kind: fail.Usage, Problem: "--limit must not be negative", Advice: "0, or no --limit, means no end"}
			}
			return stream(c.Context, ui, source, config, c.Int("limit"), c.Bool("ack"))
		},
	}
}

// stream prints transactions until ctx ends or limit is reached. A slot that stream created is
// dropped at the end.
func stream(ctx context.Context, ui *ui, source string, config decoder.Config, limit int, ack bool) (err error) {
	if config.Slot == "" {
		config.Slot = fmt.Sprintf("walferry_stream_%d", os.Getpid())
		ack = true // nothing else uses it
		exported, err := slot.Export(ctx, source, slot.ExportConfig{Slot: config.Slot, Logger: ui.logger})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dropSlot(ctx, source, config.Slot)) }()
		if err := exported.Close(ctx); err != nil {
			return err
		}
	}
	s, err := decoder.Open(ctx, source, config)
	if err != nil {
		return err
	}
	defer s.Close()
	out := bufio.NewWriterSize(ui.data, 1<<20)
	var line []byte
	for n := 0; limit == 0 || n < limit; {
		// The buffer is flushed if nothing more has arrived for a moment.
		wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		tx, err := s.Next(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return writeErr(out.Flush())
		case errors.Is(err, context.DeadlineExceeded):
			if err := out.Flush(); err != nil {
				return writeErr(err)
			}
			continue
		case err != nil:
			return errors.Join(err, writeErr(out.Flush()))
		}
		if tx.XID != 0 || len(tx.Messages) > 0 {
			line = decoder.AppendJSON(line[:0], tx)
			if _, err := out.Write(line); err != nil {
				return writeErr(err)
			}
			if tx.Last {
				n++
			}
		}
		if ack && tx.Last {
			s.Ack(tx.EndLSN)
		}
	}
	return writeErr(out.Flush())
}

func dropSlot(ctx context.Context, source, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	conn, err := session.Open(ctx, session.Config{DSN: source, Application: "stream"})
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return slot.Drop(ctx, conn, name)
}
