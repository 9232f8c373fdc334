package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
)

// writes adds who writes where.
func (p *statusPage) writes(s migration.Status) {
	from, to := sides(s)
	if len(s.Groups) > 0 {
		from, to = "old server", "new server"
	}
	if s.Writes.Old != nil {
		p.written(from, *s.Writes.Old)
	}
	if s.Writes.New != nil {
		p.written(to, *s.Writes.New)
	}
}

// writesShown is how many tables, and how many writers, are printed of a server for people.
const writesShown = 6

// written adds what is written on a server: commits, which the stream has brought, and by whom, as far as that was seen.
func (p *statusPage) written(server string, w state.Writes) {
	if w.Commits == 0 {
		p.row("writes", "%s: none in %s", server, secondsText(math.Round(w.Seconds)))
	} else {
		var tables []string
		for _, t := range w.Tables[:min(len(w.Tables), writesShown)] {
			tables = append(tables, t.Table+" "+rateText(t.Rate))
		}
		p.row("writes", "%s: %s commits a minute, in the last %s: %s%s", server, rateText(w.Rate), secondsText(math.Round(w.Seconds)), strings.Join(tables, ", "), more(len(w.Tables)-writesShown))
	}
	shown := 0
	var idle []string
	for _, by := range w.Writers {
		name := fmt.Sprintf("%s as %s", named(by.Application), by.Role)
		if by.Caught == 0 {
			idle = append(idle, fmt.Sprintf("%s (%d)", name, by.Sessions))
			continue
		}
		if shown++; shown > writesShown {
			continue
		}
		rate := ""
		if by.Rate != nil {
			rate = fmt.Sprintf("about %s a minute, ", rateText(*by.Rate))
		}
		p.row("", "by %s: %sseen at %d of them; %s; %d sessions", name, rate, by.Caught, strings.Join(by.Tables, ", "), by.Sessions)
	}
	if shown > writesShown {
		p.row("", "and by%s", strings.TrimPrefix(more(shown-writesShown+w.More), " and"))
	}
	if len(idle) > 0 {
		p.row("", "connected, and not seen to write: %s%s", strings.Join(idle[:min(len(idle), writesShown)], ", "), more(len(idle)-writesShown))
	}
}

func named(application string) string {
	if application == "" {
		return "(no application_name)"
	}
	return application
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// rateText is a number of commits a minute: small ones have a digit after the point.
func rateText(rate float64) string {
	if rate < 10 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", rate), ".0")
	}
	return countText(int64(math.Round(rate)))
}
