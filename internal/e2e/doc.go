// Package e2e holds the end-to-end tests: whole migrations between real servers,
// one per trait of a database (testdata/cases), and of shop under its writers;
// with processes killed, servers stopped and deadlines missed.
//
// Both sides are compared here by reading every row as text, with none of the
// product's own code, beside what `walferry verify` says.
package e2e
