package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// A document has a section for each kind of workload, between two lines. In it are a line
// that says where it was measured, an empty one, and a table with one or more rows a workload,
// whose first cell is its name.
const (
	begin = "<!-- begin %s: written by make bench -->\n"
	end   = "<!-- end -->"
)

// publish prints what was measured, and puts it into the document, in the place of what the
// section has of the same workload.
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

// merged is a document with rows in a section. What was measured elsewhere is left out.
func merged(document, section, setting string, head []string, rows [][]string) (string, error) {
	begin := fmt.Sprintf(begin, section)
	before, rest, ok := strings.Cut(document, begin)
	old, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", fmt.Errorf("there are no lines %q and %q", strings.TrimSpace(begin), end)
	}
	top := setting + "\n\n" + line(head) + "|" + strings.Repeat("---|", len(head)) + "\n"
	var lines []string
	if kept, ok := strings.CutPrefix(old, top); ok {
		lines = slices.Collect(strings.Lines(kept))
	}
	for _, row := range rows {
		lines = slices.DeleteFunc(lines, func(l string) bool { return workload(l) == row[0] })
	}
	for _, row := range rows {
		lines = append(lines, line(row))
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(workload(a), workload(b)) })
	return before + begin + top + strings.Join(lines, "") + end + after, nil
}

// workload is the first cell of a line of a table.
func workload(line string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " |")
	return name
}
