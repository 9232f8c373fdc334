// Package slot creates what a stream of a source's changes is read from, and reports whether it
// still is what it was: publications, a logical slot and the snapshot of its first position, and on
// version 10 the triggers by which TRUNCATE shows.
//
// The order matters: the publications first, committed, then the slot ([CreatePublication],
// [Export]), and neither is altered afterwards. A publication that was altered, or dropped and
// created again, has lost changes without an error, which is why [PublicationIdentity] is kept with
// the data and compared by every connection ([ComparePublications]).
//
// Package decoder reads a slot, package snapshot copies under its snapshot.
//
// Errors that a caller may want to tell apart are types, for errors.As: [Error], whose Reason says
// why a slot cannot be used, [PublicationError], [BlockedError] and [ExistsError]. Each has a Hint
// for the operator.
package slot
