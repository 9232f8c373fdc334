package catalog

import (
	"fmt"
	"strings"
)

// List joins names for a sentence, at most ten of them.
func List(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}
