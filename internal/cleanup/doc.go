// Package cleanup removes what a migration has on its servers, and lists by query what is left
// there, of it and of others.
package cleanup
