package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"strings"

	"github.com/walferry/walferry/internal/flow"
)

// longestName is that of a migration.
const longestName = 40

var plainName = regexp.MustCompile(`^[a-z0-9_]+$`)

// nameError says what is wrong with the name of a migration.
func nameError(name string) error {
	switch suffix := flow.Taken(name); {
	case !plainName.MatchString(name) || len(name) > longestName:
		return errors.New("it is not 1 to 40 of a-z, 0-9 and _")
	case suffix != "":
		return errors.New("it ends in " + suffix + ", and would have objects of another migration")
	}
	return nil
}

// nameOf is the name of a migration: its slot and its replication origin belong to whole servers. It depends on nothing but the
// two names, so that what is added to the file later changes none. A database whose name cannot be a part of it as it is gets the first
// digits of a sum.
func nameOf(instance, database string) string {
	name := instance + "_" + database
	if nameError(name) == nil {
		return name
	}
	sum := sha256.Sum256([]byte(database))
	digits := "_" + hex.EncodeToString(sum[:4])
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		}
		return '_'
	}, database)
	name = instance + "_" + clean
	return name[:min(len(name), longestName-len(digits))] + digits
}
