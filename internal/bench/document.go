package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// A document has a section for each kind of workload, between two lines. In it is a table for each
// place where it was measured, under a line that says which: one or more rows a workload, whose
// first cell is its name.
const (
	begin = "<!-- begin %s: written by make bench -->\n"
	end   = "<!-- end -->"
)

// publish prints what was measured, and puts it into the document, in the place of what the section
// has of the same workload.
func (b *bench) publish(section string, head []string, rows [][]string) error {
	fmt.Print("\n", line(head))
	for _, row := range rows {
		fmt.Print(line(row))
	}
	fmt.Println()
	if b.out == "" {
		return nil
	}
	text, err := os.ReadFile(b.out)
	if err != nil {
		return err
	}
	changed, err := merged(string(text), section, b.setting(), head, rows)
	if err != nil {
		return fmt.Errorf("%s: %w", b.out, err)
	}
	return os.WriteFile(b.out, []byte(changed), 0o644)
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// merged is a document with rows in a section, in the table of its setting.
func merged(document, section, setting string, head []string, rows [][]string) (string, error) {
	begin := fmt.Sprintf(begin, section)
	before, rest, ok := strings.Cut(document, begin)
	old, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("there are no lines %q and %q", strings.TrimSpace(begin), end)
	}
	top := line(head) + "|" + strings.Repeat("---|", len(head)) + "\n"
	tables := tablesIn(old)
	at := slices.IndexFunc(tables, func(t table) bool { return t.setting == setting })
	if at < 0 {
		at = len(tables)
		tables = append(tables, table{setting: setting})
	}
	kept, ok := strings.CutPrefix(tables[at].text, top)
	if !ok {
		kept = "" // its columns are others
	}
	lines := slices.DeleteFunc(slices.Collect(strings.Lines(kept)), func(l string) bool {
		return slices.ContainsFunc(rows, func(row []string) bool { return workload(l) == row[0] })
	})
	for _, row := range rows {
		lines = append(lines, line(row))
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(workload(a), workload(b)) })
	tables[at].text = top + strings.Join(lines, "")
	var all []string
	for _, t := range tables {
		all = append(all, t.setting+"\n\n"+t.text)
	}
	return before + begin + strings.Join(all, "\n") + end + after, nil
}

// table is what was measured in one place.
type table struct{ setting, text string }

// tablesIn are those of a section.
func tablesIn(section string) []table {
	var tables []table
	for l := range strings.Lines(section) {
		switch {
		case strings.HasPrefix(l, "|") && len(tables) > 0:
			tables[len(tables)-1].text += l
		case strings.TrimSpace(l) != "":
			tables = append(tables, table{setting: strings.TrimSpace(l)})
		}
	}
	return tables
}

// workload is the first cell of a line of a table.
func workload(line string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
	return name
}
