package schema

import (
	"bytes"
	"fmt"
	"strconv"
)

// Sections of an archive, as teSection in pg_backup.h.
const (
	sectionNone     = 1 // goes with the entry it depends on: COMMENT, ACL, SECURITY LABEL
	sectionPreData  = 2
	sectionData     = 3
	sectionPostData = 4
)

// entry is one line of an archive's table of contents.
type entry struct {
	id        int    // its dump id, which other entries' deps name
	oid       string // of the object on the source
	tag       string // for people, mostly the name; "table name" for what belongs to a table
	kind      string // TABLE, INDEX, FK CONSTRAINT, ...
	section   int
	sql       string // what creates it; several statements in some kinds
	drop      string // what drops it: names the object with its arguments
	namespace string
	method    string // table access method, from archive version 1.14 on
	owner     string
	deps      []int
}

// String names the entry for people.
func (e *entry) String() string {
	if e.namespace == "" || e.namespace == "-" {
		return e.kind + " " + e.tag
	}
	return e.kind + " " + e.namespace + "." + e.tag
}

// FormatError says that an archive cannot be read.
type FormatError struct {
	Offset int // of the byte where reading stopped
	What   string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("read pg_dump archive at byte %d: %s", e.Offset, e.What)
}

// Hint returns what the operator can do.
func (e *FormatError) Hint() string {
	return "make the dump with pg_dump of version 10 to 19, or create the schema on the target yourself and use --schema none"
}

// Versions of the archive format that are understood: 13 (pg_dump 10.3 and 11
// on) to 16 (17 and 18), from pg_backup_archiver.h.
const (
	oldestFormat = 13
	newestFormat = 16
)

// archive is the head of a custom-format archive and its table of contents.
type archive struct {
	server  string // version of the source
	dumper  string // version of pg_dump
	entries []*entry
}

// readArchive reads a custom-format archive as far as its table of contents goes
// (WriteHead and WriteToc in pg_backup_archiver.c).
func readArchive(data []byte) (_ *archive, err error) {
	r := &archiveReader{data: data}
	defer func() {
		if r.err != nil {
			err = r.err
		}
	}()
	if !bytes.HasPrefix(data, []byte("PGDMP")) {
		return nil, &FormatError{What: "it is not in custom format"}
	}
	r.at = len("PGDMP")
	major, minor, _ := r.byte(), r.byte(), r.byte()
	if r.err == nil && (major != 1 || minor < oldestFormat || minor > newestFormat) {
		return nil, &FormatError{Offset: r.at, What: fmt.Sprintf("its format %d.%d is not known", major, minor)}
	}
	r.intSize, r.offSize = int(r.byte()), int(r.byte())
	if format := r.byte(); r.err == nil && (format != 1 || r.intSize == 0 || r.intSize > 8 || r.offSize > 16) {
		return nil, &FormatError{Offset: r.at, What: "it is not in custom format"}
	}
	if minor >= 15 {
		r.byte() // compression algorithm
	} else {
		r.int() // compression level
	}
	for range 7 {
		r.int() // when it was made
	}
	r.string() // database
	a := &archive{}
	a.server, a.dumper = r.string(), r.string()
	for n := r.int(); n > 0 && r.err == nil; n-- {
		a.entries = append(a.entries, r.entry(minor))
	}
	return a, nil
}

// archiveReader reads the primitives of an archive; after an error they all
// return zero.
type archiveReader struct {
	data             []byte
	at               int
	intSize, offSize int
	err              error
}

func (r *archiveReader) entry(minor byte) *entry {
	e := &entry{id: r.int()}
	r.int() // whether data follow
	r.string()
	e.oid, e.tag, e.kind = r.string(), r.string(), r.string()
	e.section = r.int()
	e.sql, e.drop = r.string(), r.string()
	r.string() // COPY statement
	e.namespace = r.string()
	r.string() // tablespace
	if minor >= 14 {
		e.method = r.string()
	}
	if minor >= 16 {
		r.int() // relkind
	}
	e.owner = r.string()
	r.string() // WITH OIDS
	for r.err == nil {
		text, ok := r.optional()
		if !ok {
			break
		}
		dep, err := strconv.Atoi(text)
		if err != nil {
			r.fail("a dependency is not a number")
			break
		}
		e.deps = append(e.deps, dep)
	}
	r.take(1 + r.offSize) // where its data are
	return e
}

func (r *archiveReader) fail(what string) {
	if r.err == nil {
		r.err = &FormatError{Offset: r.at, What: what}
	}
}

func (r *archiveReader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.data)-r.at {
		r.fail("it ends too early")
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at]
}

func (r *archiveReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// int reads a sign and a magnitude, the least significant byte first.
func (r *archiveReader) int() int {
	negative := r.byte() != 0
	var n uint64
	for i, b := range r.take(r.intSize) {
		n |= uint64(b) << (8 * i)
	}
	if n > 1<<31 {
		r.fail("a number is too large")
		return 0
	}
	if negative {
		return -int(n)
	}
	return int(n)
}

func (r *archiveReader) string() string {
	s, _ := r.optional()
	return s
}

// optional reads a string that may be missing, which is not the same as empty.
func (r *archiveReader) optional() (string, bool) {
	n := r.int()
	if r.err != nil || n < 0 {
		return "", false
	}
	return string(r.take(n)), r.err == nil
}
