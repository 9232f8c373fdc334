package shop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/session"
	shopdata "github.com/walferry/walferry/testdata/shop"
)

// Options say how large the database is to be. The zero value is 300 MB with all that the server's
// version can do.
type Options struct {
	// Size is the size wanted, in MB (2^20 bytes) of tables and indexes. Zero means 300; below 5
	// the fixed part of about 3 MB shows.
	Size int

	// Major leaves out what came after this major version, such as generated columns (12), even if
	// the server has it. Zero means the server's own.
	Major int
}

// fixedMB is about what the tables take whose rows do not grow with the size, and the first pages
// of all others.
const fixedMB = 2

// perMB are the rows of each table that grows with the size, per MB beyond fixedMB; the comments
// say what is in them. Price history and stock grow with products.
var perMB = map[string]int{
	"orders":    230, // 3 lines each, an invoice, mostly a payment: 180 kB
	"customers": 40,  // 20 kB
	"products":  12,  // 50 rows of price history and 4 of stock each: 50 kB
	"reviews":   120, // 20 kB
	"documents": 4,   // 430 kB, out of line
	"shipments": 160, // 25 kB
	"baskets":   80,  // 2.5 items each: 15 kB
	"events":    500, // 210 kB
	"audit":     200, // 60 kB
}

// Load makes the schemas shop and billing in an empty database. The data is computed in the server
// from the numbers of the rows: the same on each load of the same size, on every version. It needs
// the extensions citext, hstore and btree_gist, and makes them in schema public.
func Load(ctx context.Context, dsn string, o Options) error {
	if o.Size == 0 {
		o.Size = 300
	}
	if o.Size < 0 {
		return fmt.Errorf("load shop: a size of %d MB", o.Size)
	}
	l := loader{dsn: dsn, size: o.Size}
	conn, err := l.connect(ctx)
	if err != nil {
		return fmt.Errorf("load shop: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	l.major = session.Major(conn.PgConn())
	if o.Major != 0 {
		l.major = min(l.major, o.Major)
	}

	err = l.run(ctx, conn, "schema")
	if err != nil {
		return fmt.Errorf("load shop: %w", err)
	}
	// Two halves that take about as long; a load is bound by the processor.
	halves, halvesCtx := errgroup.WithContext(ctx)
	for _, half := range []string{"orders", "rest"} {
		halves.Go(func() error {
			conn, err := l.connect(halvesCtx)
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			return errors.Join(l.run(halvesCtx, conn, "load_"+half), l.run(halvesCtx, conn, "keys_"+half))
		})
	}
	if err := halves.Wait(); err != nil {
		return fmt.Errorf("load shop: %w", err)
	}
	for _, step := range []string{"foreign", "code"} {
		if err := l.run(ctx, conn, step); err != nil {
			return fmt.Errorf("load shop: %w", err)
		}
	}
	// Rough statistics do: the data is regular, and ANALYZE would take as long as the load of a
	// table.
	if _, err := conn.PgConn().Exec(ctx, "set default_statistics_target = 10; analyze").ReadAll(); err != nil {
		return fmt.Errorf("load shop: analyze: %w", err)
	}
	return nil
}

type loader struct {
	dsn   string
	size  int
	major int
}

// connect opens a session in which the files of testdata/shop find the row counts.
func (l *loader) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := connect(ctx, l.dsn)
	if err != nil {
		return nil, err
	}
	settings := map[string]string{
		"synchronous_commit":   "off",
		"maintenance_work_mem": "128MB",
		"work_mem":             "64MB",
		"client_min_messages":  "warning",
	}
	for table, rows := range perMB {
		settings["shop."+table] = fmt.Sprint(rows * max(l.size-fixedMB, 1))
	}
	if session.Major(conn.PgConn()) >= 11 {
		// The planner takes a series for a million rows and has each statement compiled, which
		// takes longer than to run it.
		settings["jit"] = "off"
	}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if _, err := conn.Exec(ctx, "select set_config($1, $2, false)", name, settings[name]); err != nil {
			conn.Close(context.WithoutCancel(ctx))
			return nil, err
		}
	}
	return conn, nil
}

// run runs the file of a step and those of its variants that fit the version.
func (l *loader) run(ctx context.Context, conn *pgx.Conn, step string) error {
	files, err := stepFiles(step, l.major)
	if err != nil {
		return err
	}
	for _, file := range files {
		sql, err := fs.ReadFile(shopdata.Files, file)
		if err != nil {
			return err
		}
		if _, err := conn.PgConn().Exec(ctx, string(sql)).ReadAll(); err != nil {
			return fmt.Errorf("run %s: %w", file, err)
		}
	}
	return nil
}

// stepFiles names the files of a step in the order in which they are run.
func stepFiles(step string, major int) ([]string, error) {
	files := []string{step + ".sql"}
	variants, err := fs.Glob(shopdata.Files, step+".*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(variants)
	for _, file := range variants {
		variant := strings.TrimSuffix(strings.TrimPrefix(file, step+"."), ".sql")
		var bound int
		if _, err := fmt.Sscanf(variant, "from%d", &bound); err == nil {
			if major >= bound {
				files = append(files, file)
			}
			continue
		}
		if _, err := fmt.Sscanf(variant, "until%d", &bound); err != nil {
			return nil, fmt.Errorf("name of %s: neither fromNN nor untilNN", file)
		}
		if major <= bound {
			files = append(files, file)
		}
	}
	return files, nil
}
