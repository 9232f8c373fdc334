// Command servers gets the PostgreSQL servers that the tests run against:
//
//	go run ./internal/pgtest/servers 13 17
//
// Without arguments it gets all of them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"github.com/walferry/walferry/internal/pgtest"
)

func main() {
	var majors []int
	for _, arg := range os.Args[1:] {
		major, err := strconv.Atoi(arg)
		if err != nil || major < pgtest.Oldest || major > pgtest.Newest {
			fmt.Fprintf(os.Stderr, "usage: servers [major ...], each %d to %d; got %q\n", pgtest.Oldest, pgtest.Newest, arg)
			os.Exit(2)
		}
		majors = append(majors, major)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := pgtest.Prepare(ctx, majors, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}
