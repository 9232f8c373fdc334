package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
)

// A child is this program again: a process in which nothing but the work is measured.
const (
	childArgument    = "child"
	childApplication = "bench child"
)

func child(args []string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	work, ok := map[string]func(context.Context, string) error{"apply": apply, "decode": decode, "receive": receive}[args[0]]
	if !ok {
		fmt.Fprintln(os.Stderr, "bench child: unknown work", args[0])
		os.Exit(2)
	}
	if path := os.Getenv("BENCH_CPUPROFILE"); path != "" {
		f, err := os.Create(path + "." + args[0])
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench child:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	if err := work(ctx, os.Getenv("WALFERRY_SOURCE")); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "bench child:", err)
		os.Exit(1)
	}
}

func open(ctx context.Context, source string) (*decoder.Stream, error) {
	return decoder.Open(ctx, source, decoder.Config{Slot: slot, Publications: []string{published}})
}

// apply is walferry's following: a stream and an applier.
func apply(ctx context.Context, source string) error {
	config, err := pgx.ParseConfig(os.Getenv("WALFERRY_TARGET"))
	if err != nil {
		return err
	}
	config.RuntimeParams["application_name"] = childApplication
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	a, err := applier.New(ctx, conn, applier.Config{Name: "bench"})
	if err != nil {
		return err
	}
	defer a.Close(context.WithoutCancel(ctx)) //nolint:errcheck // its work is measured, not kept
	stream, err := open(ctx, source)
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // as above
	return a.Run(ctx, stream)
}

// decode takes the transactions and looks at nothing but what ends the backlog.
func decode(ctx context.Context, source string) error {
	stream, err := open(ctx, source)
	if err != nil {
		return err
	}
	defer stream.Close() //nolint:errcheck // as in apply
	for {
		tx, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if n := len(tx.Changes); n > 0 && tx.Changes[n-1].Relation != nil && tx.Changes[n-1].Relation.Name == "bench_done" {
			return nil
		}
	}
}

// receive is the plain loop that everyone writes first: it reads the next message and drops it.
func receive(ctx context.Context, source string) error {
	config, err := pgconn.ParseConfig(source)
	if err != nil {
		return err
	}
	config.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{"proto_version '1'", "publication_names '" + published + "'"}}); err != nil {
		return err
	}
	var announced uint32 // the OID of bench_done
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		data, ok := message.(*pgproto3.CopyData)
		if !ok || data.Data[0] != pglogrepl.XLogDataByteID {
			continue
		}
		body := data.Data[25:]
		switch oid := func() uint32 { return uint32(body[1])<<24 | uint32(body[2])<<16 | uint32(body[3])<<8 | uint32(body[4]) }; {
		case body[0] == 'R' && strings.Contains(string(body), "bench_done\x00"):
			announced = oid()
		case body[0] == 'I' && announced != 0 && oid() == announced:
			return nil
		}
	}
}
