// Package slot makes what a stream of a source's changes is read by, and tells whether it still is
// what it was: publications, a logical slot and the snapshot of its first position, and on version
// 10 the triggers by which TRUNCATE shows.
//
// The order matters: the publications first, committed, then the slot ([CreatePublication],
// [Export]), and neither is altered afterwards. A publication that was altered, or dropped and made
// again, has lost changes without an error, which is why [PublicationIdentity] is kept with the
// data and compared by every connection ([ComparePublications]).
//
// Package decoder reads a slot, package snapshot copies under its snapshot.
package slot
