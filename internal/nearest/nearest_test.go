package nearest

import "testing"

func TestName(t *testing.T) {
	names := []string{"host", "port", "sslmode", "sslrootcert", "password", "public.orders"}
	for _, c := range []struct{ word, want string }{
		{"sslmod", "sslmode"},
		{"slsmode", "sslmode"},
		{"hsot", "host"},
		{"pasword", "password"},
		{"public.order", "public.orders"},
		{"sslroot_cert", "sslrootcert"},
		{"x", ""},
		{"", ""},
		{"unrelated", ""},
		{"ü", ""},
	} {
		got, ok := Name(c.word, names)
		if ok != (c.want != "") || (ok && got != c.want) {
			t.Errorf("Name(%q) = %q, %v; want %q", c.word, got, ok, c.want)
		}
	}
}
