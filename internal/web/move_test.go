package web

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/status"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A whole move as it is seen in a browser: copied, followed, rehearsed, switched with a way back, and left alone.
func TestPage_Move(t *testing.T) {
	chromium := browser(t)
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table public."`+strings.ReplaceAll(hostile, `"`, `""`)+`" (id serial primary key, v text); create table t (id serial primary key, v text);
insert into t (v) select 'secret of a row ' || i from generate_series(1, 1234) i`)
	c := migration.Config{Source: source, Target: target, Name: fmt.Sprintf("page_%06x", rand.N(1<<24)), FallBack: migration.FallBackRequire, MaxRetainedWALTarget: 1 << 34, Heartbeat: 500 * time.Millisecond}
	ctx, end := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() {
		_, err := migration.Migrate(ctx, c, migration.Observer{Checked: func(r check.Report) {
			if r.Blocks() {
				t.Errorf("the preflight blocks: %+v", r.Findings)
			}
		}})
		over <- err
	}()
	t.Cleanup(func() {
		end()
		<-over
		if _, err := migration.Finish(context.Background(), c); err != nil {
			t.Error(err)
		}
	})
	ends := [2]session.Config{{DSN: source, Application: "page"}, {DSN: target, Application: "page"}}
	s := serves(t, Access{Address: "127.0.0.1:0"}, Migration{
		Key:    c.Name,
		Read:   func(ctx context.Context) (status.Status, error) { return migration.ReadStatus(ctx, c) },
		Tables: func(ctx context.Context) ([]status.Table, error) { return status.Tables(ctx, ends[1], c.Name) },
		Look:   func(ctx context.Context) (*ready.Looked, error) { return ready.Look(ctx, ends[0], ends[1], c.Name) },
	})

	p := open(t, chromium, s.URL(), 1200, "light")
	p.until(`document.getElementById('ready').textContent.startsWith('Yes')`)
	p.says("#copy", "2 tables of 2, 1,234 rows")
	p.says("#gates", "writers", "nobody can write past the fence", "schema", "the definitions of both sides fit")
	p.do(chromedp.Click(chromedp.CSS("#each summary")))
	p.says("#tables", hostile, "done")
	is(p, `document.images.length`, 0)

	rehearsal := c
	rehearsal.Cut.DryRun, rehearsal.Cut.MaxLag, rehearsal.Cut.Timeout = true, browserPatience, browserPatience
	if _, err := migration.Cutover(context.Background(), rehearsal, nil); err != nil {
		t.Fatal(err)
	}
	p.until(`document.getElementById('switches').innerText.includes('Rehearsal')`)
	p.says("#switches", "in all", " ms", "fence", " ms", "drain", " ms", "expected of the switch", "about", "done")
	rehearsal.Cut.DryRun = false
	result, err := migration.Cutover(context.Background(), rehearsal, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.until(`document.getElementById('phase').textContent === 'switched' && document.getElementById('switches').innerText.includes('Cutover')`)
	p.says("#switches tr.total", "in all", fmt.Sprintf("%d ms", result.PauseMS))
	p.says("#back", "the new server", "following since")
	p.until(`document.getElementById('ready').textContent.startsWith('Yes: a fallback may be asked for')`)
	end()
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	over <- nil
	p.until(`document.getElementById('phase').textContent === 'switched, interrupted'`)
	p.says("#summary", "No migrate is running")
	if _, all := ask(t, http.DefaultClient, s.URL()+"status", nil); strings.Contains(all, "secret of a row") || strings.Contains(p.text("body"), "secret of a row") {
		t.Error("a row's value is shown")
	}
	p.keep("moved")
}
