package hook

import (
	"path/filepath"
	"testing"
)

// The examples can be read by a shell, and agree to what is not theirs without calling anything.
func TestExamples(t *testing.T) {
	examples, err := filepath.Glob("../../docs/hooks/*.sh")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range []string{"DB_TARGET", "DB_SOURCE", "PGBOUNCER_HOSTS"} {
		t.Setenv(name, "x")
	}
	t.Setenv("PATH", "/nowhere") // nothing of what they would call is found
	for _, path := range examples {
		c, l := caller(t, path)
		if err := c.Call(t.Context(), example(Hold)); err != nil {
			t.Errorf("%v\n%s", err, l)
		}
	}
}
