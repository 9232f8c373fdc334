package main

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// part is what a line says of one thing. Where there is no room for all parts, those of the lowest
// rank go first.
type part struct {
	rank int
	text string // empty: there is nothing to say
}

// fit joins a head and parts to a line of at most width columns: no part is cut, those that do not
// fit are left out, and if even the last one does not fit beside the head, the head is. A width of 0 is none.
func fit(width int, head string, parts ...part) string {
	parts = slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return p.text == "" })
	for {
		texts := make([]string, len(parts))
		for i, p := range parts {
			texts[i] = p.text
		}
		line := head + strings.Join(texts, ", ")
		if len(parts) == 0 {
			line = strings.TrimRight(line, ": ")
		}
		switch {
		case width <= 0 || utf8.RuneCountInString(line) <= width || len(parts) == 0:
			return line
		case len(parts) == 1 && head != "":
			head = ""
		case len(parts) == 1:
			return line // the terminal cuts it
		default:
			least := 0
			for i, p := range parts {
				if p.rank < parts[least].rank {
					least = i
				}
			}
			parts = slices.Delete(parts, least, least+1)
		}
	}
}
