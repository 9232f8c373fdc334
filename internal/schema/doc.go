// Package schema creates the schema of the source on the target: what must be there before the
// data, the indexes of a table as soon as it has its rows, and the rest.
//
// The source is read by pg_dump, which knows every object of every version. The archive it writes
// (-Fc) is a list of SQL statements, each with its kind, name, owner and the entries it depends on.
// This package reads that list and executes the statements over its own connections; pg_restore
// would be one more program to install, to give a password to and to agree with the target about
// settings:
//
//   - what comes before the data is one transaction, and the caller's: it can
//     record in the same transaction that it has been done ([Dump.PreData]);
//   - an entry that the target's role may not have, or whose role does not exist
//     there, is left out by name and reported ([Report]), not found in a log;
//   - indexes and constraints are built in the order in which tables become
//     complete, on as many connections as the caller likes;
//   - no text goes through psql or a shell: the meta-commands that a hostile
//     source could hide in a dump (CVE-2025-8714) mean nothing here.
//
// Everything after PreData can be repeated: what is there is skipped. [Lost] compares both
// catalogues afterwards, however the schema was created; [Compare] reports whether the rows of the
// source fit into the tables of the target.
//
// Not part of a schema, and so neither dumped nor compared: roles, settings of
// roles and of the database (ALTER ... SET), tablespaces, publications,
// subscriptions, rows of extensions' configuration tables, and schema walferry.
package schema
