package flow

import (
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/slot"
)

// Direction is which way round a flow goes between the two servers of a migration.
type Direction int

// The directions.
const (
	Forth Direction = iota // from the old server to the new one
	Back                   // from the new one to the old one
)

// Name is what a flow is known by. All its objects on either server are named after it.
type Name struct {
	Migration string
	Direction Direction
}

// back is added to a migration's name for the objects of its flow back.
const back = "_back"

// Taken returns the suffix by which a migration's name would be that of something else: of the flow
// back of a migration without that suffix, or of its publication of inserts. Empty: it has none.
func Taken(migration string) string {
	for _, suffix := range []string{back, slot.InsertsSuffix} {
		if len(migration) > len(suffix) && strings.HasSuffix(migration, suffix) {
			return suffix
		}
	}
	return ""
}

// String is the flow's stream: its row in walferry.progress, and with "walferry_" before it the
// replication origin of the session that applies it.
func (n Name) String() string {
	if n.Direction == Back {
		return n.Migration + back
	}
	return n.Migration
}

// Reverse returns the name of the flow between the same servers in the other direction.
func (n Name) Reverse() Name {
	if n.Direction == Back {
		return Name{n.Migration, Forth}
	}
	return Name{n.Migration, Back}
}

// Sides returns what people are told that the two servers of the flow are. That of a flow forth is a source.
func (n Name) Sides() sides.Sides {
	if n.Direction == Back {
		return sides.Back
	}
	return sides.OneWay
}

// Source returns the names of the flow's objects on the server that it comes from.
func (n Name) Source() slot.Names { return slot.NamesOf(n.String()) }

// messages is the prefix of the logical messages that walferry writes; a flow's name follows.
const messages = "walferry/"

// Messages is the prefix of the flow's logical messages.
func (n Name) Messages() string { return messages + n.String() }

// OwnMessage reports whether a logical message with this prefix is walferry's own.
func OwnMessage(prefix string) bool { return strings.HasPrefix(prefix, messages) }

// Group is the name of what a group of the flow's tables has of its own, by the group's number.
func (n Name) Group(number int) string {
	name := fmt.Sprintf("%s.g%d", n.Migration, number)
	if n.Direction == Back {
		name += back
	}
	return name
}
