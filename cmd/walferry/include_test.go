package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A password comes out of a file as it is, wherever it stands in a connection string.
func TestInclude(t *testing.T) {
	t.Parallel()
	const password = ` s@cr'et:/?#[]%20 \&=+$ü" `
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, end := range map[string]string{"unix": "\n", "dos": "\r\n", "none": ""} {
		secret := write("secret-"+name, password+end, 0o600)
		for _, value := range []string{
			"postgres://u:${file:" + secret + "}@h/d", "postgresql://h/d?user=u&password=${file:secret-" + name + "}",
			"host=h user=u password=${file:" + secret + "} dbname=d", "host=h user=u password='${file:" + secret + "}' dbname=d",
		} {
			f, err := readFile(write("walferry.yaml", `source: "`+value+`"`+"\n", 0o644))
			if err != nil {
				t.Fatalf("%s: %v", value, err)
			}
			config, err := pgx.ParseConfig(f.text("source"))
			if err != nil {
				t.Fatalf("%s: %v", value, err)
			}
			if config.Password != password || config.User != "u" || config.Database != "d" {
				t.Errorf("%s: the password is %q, the user %q, the database %q", value, config.Password, config.User, config.Database)
			}
			if f.own {
				t.Errorf("%s: it is said to hold a password itself", value)
			}
		}
	}
	whole := write("whole", "postgres://u:p@h/d\n", 0o600)
	f, err := readFile(write("walferry.yaml", "source: ${file:whole}\npgbouncer: ['postgres://${file:name}@h:1/pgbouncer']\n", 0o644))
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v, %v", f, err)
	}
	write("name", "a/b", 0o600)
	f, err = readFile(filepath.Join(dir, "walferry.yaml"))
	if err != nil || f.text("source") != "postgres://u:p@h/d" || f.list("pgbouncer")[0] != "postgres://a%2Fb@h:1/pgbouncer" {
		t.Errorf("%s: %+v, %v", whole, f, err)
	}
	if f, err = readFile(write("own.yaml", "source: postgres://u:p@h/d\n", 0o644)); err != nil || !f.own {
		t.Errorf("a password of its own: %v, %v", f, err)
	}
	write("large", strings.Repeat("x", 65<<10), 0o600)
	if _, err := readFile(write("walferry.yaml", "name: ${file:large}\n", 0o644)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a large file: %v", err)
	}
}

// A comma in a password is a part of it.
func TestWhole(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, list, want string }{
		{"pgbouncer", "postgres://a:x,y@h/pgbouncer,postgres://b@h/pgbouncer", "postgres://a:x,y@h/pgbouncer|postgres://b@h/pgbouncer"},
		{"pgbouncer", "host=h password=a,,b", "host=h password=a,,b"},
		{"hook", "a.sh,b.sh", "a.sh|b.sh"},
		{"include", "a.b,c.d", "a.b|c.d"},
	} {
		if got := strings.Join(whole(c.name, strings.Split(c.list, ",")), "|"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
