package catalog

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
)

func TestSelect(t *testing.T) {
	tables := []Table{
		{Name: Name{Schema: "a.b", Name: "c"}, Kind: 'r'},
		{Name: Name{Schema: "app", Name: "Orders"}, Kind: 'r'},
		{Name: Name{Schema: "app", Name: "events"}, Kind: 'p'},
		{Name: Name{Schema: "app", Name: "events_1"}, Kind: 'r', IsPartition: true, Root: "app.events"},
		{Name: Name{Schema: "app", Name: "events_2"}, Kind: 'p', IsPartition: true, Root: "app.events"},
		{Name: Name{Schema: "app", Name: "events_2_1"}, Kind: 'r', IsPartition: true, Root: "app.events"},
		{Name: Name{Schema: "public", Name: "orders"}, Kind: 'r'},
		{Name: Name{Schema: "public", Name: "spatial_ref_sys"}, Kind: 'r', Extension: "postgis"},
		{Name: Name{Schema: "public", Name: "star*"}, Kind: 'r'},
		{Name: Name{Schema: "public", Name: "users"}, Kind: 'r'},
	}
	events := "app.events app.events_1 app.events_2 app.events_2_1"
	for _, c := range []struct {
		include, exclude, want, problem string
	}{
		{want: `a.b.c app.Orders ` + events + ` public.orders public.star* public.users`},
		{include: `orders`, want: `public.orders`},
		{include: `app.*`, want: `app.Orders ` + events},
		{include: `app.events`, want: events},
		{include: `app.events`, exclude: `app.events_1`, want: "app.events app.events_2 app.events_2_1"},
		{include: `app.events_1`, want: "app.events app.events_1 app.events_2"},
		{exclude: `app.events *.*rs`, want: `a.b.c public.star*`},
		{include: `"a.b".c`, want: `a.b.c`},
		{include: `"star*"`, want: `public.star*`},
		{include: `orders orders public.order?`, want: `public.orders`},
		{include: `orders`, exclude: `orders`, want: ``},
		{include: `order`, problem: "did you mean public.orders?"},
		{include: `public.USERS`, problem: "public.users"},
		{include: `Orders`, problem: "orders"},
		{exclude: `events`, problem: "did you mean app.events?"},
		{include: `spatial_ref_sys`, problem: "postgis"},
		{include: `app.events_2`, problem: "partitions itself"},
		{include: `pg_catalog.pg_class`, problem: "system"},
		{include: `information_schema.*`, problem: "system"},
		{include: `a.b.c`, problem: "more than one dot"},
		{include: `"a.b`, problem: "without an end"},
		{include: `app.`, problem: "empty"},
	} {
		got, err := Select(tables, strings.Fields(c.include), strings.Fields(c.exclude))
		if c.problem != "" {
			e := fail.Find(err, fail.Usage)
			if e == nil || !strings.Contains(e.Error()+" "+e.Hint(), c.problem) {
				t.Errorf("include %s, exclude %s: got %v, want %q", c.include, c.exclude, err, c.problem)
			}
			continue
		}
		if err != nil {
			t.Errorf("include %s, exclude %s: %v", c.include, c.exclude, err)
			continue
		}
		var names []string
		for _, s := range got {
			names = append(names, s.Plain())
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("include %s, exclude %s: got %s, want %s", c.include, c.exclude, got, c.want)
		}
	}
}
