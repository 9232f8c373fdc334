// Package nearest finds the name that was probably meant: of a flag, a key of a
// configuration, a connection parameter, a table.
package nearest

// Name returns the one of names that differs least from word, and whether any
// is close enough to be worth suggesting: at most two letters, or a third of the word,
// inserted, left out, replaced or swapped with their neighbour.
func Name(word string, names []string) (string, bool) {
	best, distance := "", max(2, len([]rune(word))/3)+1
	for _, name := range names {
		if d := edits(word, name); d < distance {
			best, distance = name, d
		}
	}
	// A word of which nothing is left is no misspelling of anything.
	return best, best != "" && distance < max(len([]rune(word)), len([]rune(best)))
}

// edits is the optimal string alignment distance of two words.
func edits(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
