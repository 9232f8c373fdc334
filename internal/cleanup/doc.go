// Package cleanup removes what a migration has on its servers, and queries what is left there, of
// it and of others.
package cleanup
