package web

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/walferry/walferry/internal/ready"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// browserPatience bounds every wait for a browser on a busy machine.
const browserPatience = 2 * time.Minute

// browser starts a headless Chromium; the test is skipped where there is none.
func browser(t *testing.T) context.Context {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no Chromium is installed, without which nobody sees the page: apt-get install chromium")
	}
	allocated, end := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("force-color-profile", "srgb"), chromedp.WSURLReadTimeout(browserPatience))...)
	t.Cleanup(end)
	ctx, end := chromedp.NewContext(allocated)
	t.Cleanup(end)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// tab is a page that is looked at.
type tab struct {
	*testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // that the browser has met
}

// open opens a tab of a width, in light or dark, at a server, and waits until it has drawn something.
func open(t *testing.T, browser context.Context, url string, width int64, scheme string) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(browser)
	t.Cleanup(end)
	v := &tab{T: t, ctx: ctx}
	err := chromedp.Listen(ctx, func(event any) {
		v.mu.Lock()
		defer v.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			v.problems = append(v.problems, fmt.Sprintf("%+v", e.ExceptionDetails))
		case *log.EventEntryAdded: // also what the policy has refused
			v.problems = append(v.problems, e.Entry.Text+" "+e.Entry.URL)
		case *page.EventJavascriptDialogOpening:
			v.problems = append(v.problems, "a dialog: "+e.Message)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	dark := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	v.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, log.Enable, cdp.Empty{})
		_, unset := cdp.Call(ctx, t, emulation.SetEmulatedMedia, dark)
		return errors.Join(err, unset)
	}), chromedp.EmulateViewport(width, 900), chromedp.Navigate(url))
	v.until(`Number(document.body.dataset.drawn) > 0`)
	t.Cleanup(func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if len(v.problems) > 0 && !t.Failed() {
			t.Errorf("the browser has met problems: %q", v.problems)
		}
	})
	return v
}

func (v *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	v.Helper()
	ctx, stop := context.WithTimeout(v.ctx, browserPatience)
	defer stop()
	if err := chromedp.Do(ctx, steps...); err != nil {
		v.Fatal(err)
	}
}

// value returns what an expression is.
func value[T any](v *tab, expression string) T {
	v.Helper()
	ctx, stop := context.WithTimeout(v.ctx, browserPatience)
	defer stop()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		v.Fatalf("%s: %v", expression, err)
	}
	return got
}

// until waits until an expression is true.
func (v *tab) until(expression string) {
	v.Helper()
	if _, err := chromedp.Run(v.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(browserPatience))); err != nil {
		v.Fatalf("waited in vain for %s: %v; the page says %s", expression, err, v.text("body"))
	}
}

func (v *tab) text(selector string) string {
	v.Helper()
	return value[string](v, fmt.Sprintf(`document.querySelector(%q).innerText`, selector))
}

// is compares what an expression is.
func is[T comparable](v *tab, expression string, want T) {
	v.Helper()
	if got := value[T](v, expression); got != want {
		v.Errorf("%s: got %v, want %v", expression, got, want)
	}
}

// says wants texts in an element, in their order.
func (v *tab) says(selector string, texts ...string) {
	v.Helper()
	whole := v.text(selector)
	rest := whole
	for _, text := range texts {
		at := strings.Index(rest, text)
		if at < 0 {
			v.Errorf("%s does not say %q in its place: %s", selector, text, whole)
			return
		}
		rest = rest[at+len(text):]
	}
}

// keep keeps a picture of the page where somebody wants to look at it.
func (v *tab) keep(name string) {
	v.Helper()
	dir := os.Getenv("WALFERRY_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		v.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		v.Error(err)
	}
}

// What people see of a migration in each state.
func TestPage(t *testing.T) {
	chromium := browser(t)
	serve := func(t *testing.T, read func() (status.Status, []status.Table)) string {
		return shows(t, Access{Address: "127.0.0.1:0"}, read).URL()
	}

	t.Run("copying", func(t *testing.T) {
		v := open(t, chromium, serve(t, copying), 1200, "light")
		v.until(`document.querySelectorAll('#tables tbody tr').length === 5`)
		v.says("h1", "a", "copying")
		v.says("#summary", "Copying: about 1 h 30 min left.")
		v.says("#phases", "prepared", "3.0 s", "copying", "indexing", "following")
		v.says("#phases [aria-current]", "copying")
		v.says("#copy", "1 table of 5, 123,456,789 rows, 30.0 GB of about 120 GB; about 1 h 30 min left. Indexes of 1 of 5 tables.")
		v.says("#counts", "1 waiting, 2 copying, 1 indexing, 1 done")
		is(v, `document.getElementById('copy-bar').value`, 0.25)
		is(v, `[...document.querySelectorAll('#tables tbody th')].map(e => e.textContent).join('|')`, "public.events|public."+hostile+"|public.items|public.orders|public.kinds")
		v.says("#tables tbody tr", "copying", "20.0 GB of 80.0 GB", "9,000,000")
		v.says("#ready", "Not now", "a cutover would be refused")
		v.says("#gates", "phase", "in phase copying, not following")
		v.says("#numbers", "WAL held back on the source", "3.0 GB of 100 GB", "Limit reached in", "2 h 0 min")
		is(v, `document.images.length`, 0) // names are texts
		is(v, `[...document.querySelectorAll('progress')].every(p => p.getAttribute('aria-label') || p.getAttribute('aria-labelledby'))`, true)
		is(v, `[...document.querySelectorAll('[role=img]')].every(e => e.getAttribute('aria-label'))`, true)
		v.keep("copying")
	})
	t.Run("nothing yet", func(t *testing.T) {
		v := open(t, chromium, serve(t, func() (status.Status, []status.Table) { return status.Status{Name: "a"}, nil }), 1200, "light")
		v.says("h1", "not begun")
		v.says("#summary", "The target has no migration of this name yet.")
		is(v, `document.getElementById('s-numbers').hidden && document.getElementById('s-ready').hidden && document.getElementById('s-copy').hidden`, true)
	})
	t.Run("following", func(t *testing.T) {
		v := open(t, chromium, serve(t, func() (status.Status, []status.Table) { return followed(), []status.Table{} }), 1200, "light")
		v.says("#numbers", "Lag", "0.21 s", "Lag in bytes", "47.1 kB", "Transactions", "7,654,321", "Changes", "23,456,789")
		v.says("#phases", "copying", "59 min 55 s", "indexing", "20 min 0 s")
		v.says("#back", "the old server", "off (--fall-back auto)")
		v.says("#servers", "PostgreSQL 13.23, database shop", "PostgreSQL 18.4", "walferry_shop on the source, active, WAL extended", "bastion, pid 4711")
		v.says("#notes", "Compared", "5 tables, no difference")
		is(v, `document.querySelectorAll('.uplot canvas').length`, 4)
		is(v, `document.querySelector('#c-lag-seconds').getAttribute('aria-label')`, "lag 0.21 s")
		is(v, `document.querySelector('#c-retained').getAttribute('aria-label')`, "held back 3.0 GB, limit 100 GB")
		is(v, `document.getElementById('no-switches').hidden`, false)
		v.keep("following")
	})
	t.Run("rehearsed", func(t *testing.T) {
		v := open(t, chromium, serve(t, rehearsed), 1200, "light")
		is(v, `[...document.querySelectorAll('#switches tbody tr')].map(r => [...r.cells].map(c => c.innerText.split('\n')[0].trim()).join(' ')).join('; ')`,
			"in all 74 ms 1,013 ms; fence 41 ms 12 ms; drain 33 ms 1,001 ms; expected of the switch about 194 ms about 1,133 ms; outcome done not done")
		v.says("#switches", "waiting for pid 4711 (billing)")
		v.says("#gates", "actions", "passed at")
		v.keep("rehearsed")
	})
	t.Run("switched", func(t *testing.T) {
		v := open(t, chromium, serve(t, switched), 1200, "light")
		v.says("h1", "switched")
		v.says("#summary", "The new server is the database; the old one follows it.")
		is(v, `[...document.querySelectorAll('#switches tbody tr')].map(r => [...r.cells].map(c => c.innerText.split('\n')[0].trim()).join(' ')).join('; ')`,
			"in all 74 ms 144 ms; fence 41 ms 38 ms; drain 33 ms 30 ms; sequences – 25 ms; open – 51 ms; expected of the switch about 194 ms –; outcome done done")
		v.says("#back", "the new server", "following since", "0.40 s, 1.2 kB", "5.0 MB", "refuses writes")
		v.says("#ready", "Yes", "a fallback may be asked for")
		v.says("#numbers", "0.40 s", "1.2 kB", "42", "WAL held back on the new server")
		v.says("#servers", "sealed: writes are refused, 5 tables")
		v.keep("switched")
	})
	t.Run("groups", func(t *testing.T) {
		v := open(t, chromium, serve(t, groupsHanded), 1200, "light")
		v.says("#back", "the new server for the tables below, the old one for all others", "Handed over", "billing.invoice, "+hostile)
		is(v, `document.images.length`, 0)
		v.keep("groups")
	})
	t.Run("interrupted", func(t *testing.T) {
		v := open(t, chromium, serve(t, interrupted), 1200, "light")
		v.says("h1", "following, interrupted")
		v.says("#problems", "The last run has ended with an error: apply to the target: ERROR: disk full (SQLSTATE 53100)")
		v.says("#summary", "No migrate is running: the same command resumes it.")
		v.says("#gates", "phase", "no migrate is running")
		v.says("#notes", "The last run", "public.new one was created later")
		is(v, `document.querySelector('#problems').getAttribute('role')`, "alert")
		v.keep("interrupted")
	})
	t.Run("many tables", func(t *testing.T) {
		v := open(t, chromium, serve(t, many), 1200, "light")
		v.until(`document.querySelectorAll('#tables tbody tr').length === 50`)
		v.says("#counts", "1,992 waiting, 8 copying, 3,000 done")
		v.says("#tables tbody tr", "tenants.t4999", "copying", "1.6 GB of 4.9 GB")
		v.says("#more", "Show 200 more of 4,950")
		v.keep("many")
		v.do(chromedp.Click(chromedp.CSS("#more")))
		v.until(`document.querySelectorAll('#tables tbody tr').length === 250`)
		v.do(chromedp.SendKeys(chromedp.CSS("#find"), "T0042"))
		v.until(`document.querySelectorAll('#tables tbody tr').length === 1`)
		v.says("#tables tbody", "tenants.t0042", "done", "42.0 MB")
		is(v, `document.getElementById('more').hidden`, true)
	})
	t.Run("phone", func(t *testing.T) {
		for name, read := range map[string]func() (status.Status, []status.Table){"copying": copying, "rehearsed": rehearsed} {
			v := open(t, chromium, serve(t, read), 360, "dark")
			v.until(`document.querySelectorAll('#tables tbody tr').length > 0 || document.querySelector('#switches tbody tr') !== null`)
			is(v, `document.scrollingElement.scrollWidth <= 360`, true)
			is(v, `getComputedStyle(document.body).backgroundColor`, "rgb(13, 17, 23)")
			v.keep("phone-" + name)
		}
	})
	t.Run("dark", func(t *testing.T) {
		v := open(t, chromium, serve(t, switched), 1200, "dark")
		is(v, `getComputedStyle(document.body).backgroundColor`, "rgb(13, 17, 23)")
		v.keep("dark")
	})
	t.Run("keyboard", func(t *testing.T) {
		v := open(t, chromium, serve(t, many), 1200, "light")
		v.until(`document.querySelectorAll('#tables tbody tr').length === 50`)
		var reached []string
		for range 8 {
			v.do(chromedp.KeyEvent("\t"))
			reached = append(reached, value[string](v, `document.activeElement.id || document.activeElement.className || document.activeElement.textContent`))
		}
		if got := strings.Join(reached, " "); !strings.HasPrefix(got, "skip Table by table 1,992 waiting, 8 copying, 3,000 done find wide more") {
			t.Errorf("the tab key leads to %s", got)
		}
		is(v, `document.querySelectorAll('section:not([aria-labelledby])').length`, 0)
	})
}

// What changes is shown without a reload, and said once to those who hear the page.
func TestPage_Live(t *testing.T) {
	chromium := browser(t)
	var mu sync.Mutex
	st, problem := followed(), error(nil)
	s := serves(t, Access{Address: "127.0.0.1:0"}, Migration{
		Key: "a",
		Read: func(context.Context) (status.Status, error) {
			mu.Lock()
			defer mu.Unlock()
			return st, problem
		},
		Tables: func(context.Context) ([]status.Table, error) { return []status.Table{}, nil },
		Look:   func(context.Context) (*ready.Looked, error) { return looked(), nil },
	})
	v := open(t, chromium, s.URL(), 1200, "light")
	v.until(`document.getElementById('phase').textContent === 'following'`)
	mu.Lock()
	st.Phase = state.Fenced
	mu.Unlock()
	v.until(`document.getElementById('said').textContent === 'The migration is now fenced'`)
	mu.Lock()
	problem = errors.New("connect to the target: connection refused")
	mu.Unlock()
	v.until(`document.getElementById('problems').innerText.includes('connection refused')`)
	v.says("h1", "fenced") // what is known stays
	s.Close()
	v.until(`document.getElementById('asof').textContent.includes('does not answer')`)
	v.mu.Lock()
	v.problems = nil // that the server is gone
	v.mu.Unlock()
}
