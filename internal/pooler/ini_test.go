package pooler

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Only host, port and dbname of the one line change; everything else stays to the byte.
func TestEdit(t *testing.T) {
	to := Place{"new.example", 5433, "app2"}
	for name, c := range map[string]struct{ was, is string }{
		"all three":    {"app = host=old port=5432 dbname=app\n", "app = host=new.example port=5433 dbname=app2\n"},
		"only a host":  {"app=host=old\n", "app= host=new.example port=5433 dbname=app2\n"},
		"nothing":      {"app =\n", "app = host=new.example port=5433 dbname=app2\n"},
		"others stay":  {"  app = user=u password='it''s = [x]' host=old pool_size=5 port=1\n", "  app = user=u password='it''s = [x]' host=new.example pool_size=5 port=5433 dbname=app2\n"},
		"spaces at =":  {"app = host = old   port = 5432\n", "app = host=new.example port=5433 dbname=app2\n"},
		"quoted host":  {"app = host='old' dbname='a b'\n", "app = host=new.example dbname=app2 port=5433\n"},
		"windows":      {"app = host=old\r\n", "app = host=new.example port=5433 dbname=app2\r\n"},
		"the last one": {"app = host=old", "app = host=new.example port=5433 dbname=app2"},
		"quoted name":  {`"app" = host=old` + "\n", `"app" = host=new.example port=5433 dbname=app2` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			const before = "; app = host=no\n[pgbouncer]\napp = host=no\n[ Databases ]\n#app = host=no\nother = host=old\napplication = host=old\n"
			const after = "\n* = host=any\n[users]\napp = pool_mode=session\n"
			if !strings.HasSuffix(c.was, "\n") {
				got, err := edit([]byte(before+c.was), "app", to)
				if err != nil || string(got) != before+c.is {
					t.Errorf("got %q, %v", got, err)
				}
				return
			}
			got, err := edit([]byte(before+c.was+after), "app", to)
			if err != nil || string(got) != before+c.is+after {
				t.Errorf("got  %q, %v\nwant %q", got, err, before+c.is+after)
			}
			again, err := edit(got, "app", to)
			if err != nil || string(again) != string(got) {
				t.Errorf("a second time it changes: %q, %v", again, err)
			}
		})
	}
	got, err := edit([]byte("[databases]\n\"my \"\"App\" = host=a\n"), `my "App`, Place{Host: "/var/run/x y", DBName: "it's"})
	if want := "[databases]\n\"my \"\"App\" = host='/var/run/x y' dbname='it''s'\n"; err != nil || string(got) != want {
		t.Errorf("got  %q, %v\nwant %q", got, err, want)
	}
	got, err = edit([]byte("[databases]\napp = host=a port=5 dbname=x\n"), "app", Place{})
	if want := "[databases]\napp =\n"; err != nil || string(got) != want {
		t.Errorf("by PgBouncer's defaults: got %q, %v, want %q", got, err, want)
	}
}

// What cannot be edited safely is left alone, and the error quotes nothing of the line.
func TestEditRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"not there":    "[databases]\nother = host=x\n",
		"elsewhere":    "[users]\napp = host=x\n",
		"all of them":  "[databases]\n* = host=x\n",
		"twice":        "[databases]\napp = host=x\napp = host=y\n",
		"open quote":   "[databases]\napp = host=x password='canary\n",
		"no settings":  "[databases]\napp = canary\n",
		"in a comment": "[databases]\n;app = host=x\n",
	} {
		if got, err := edit([]byte(text), "app", Place{Host: "y"}); err == nil {
			t.Errorf("%s: got %q", name, got)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error shows the line: %v", name, err)
		}
	}
}

// The file is another one of the same owner and mode, its link stays a link, and the old text is
// kept beside it, as secret as it was.
func TestPlaceIn(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "real.ini"), filepath.Join(dir, "pgbouncer.ini")
	const was = "[databases]\na = host=old password=p\nb = host=old\n"
	if err := errors.Join(os.WriteFile(path, []byte(was), 0o600), os.Chmod(path, 0o640), os.Symlink("real.ini", link)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	owner := func(path string) (uint32, uint32) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o640 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		stat := info.Sys().(*syscall.Stat_t)
		return stat.Uid, stat.Gid
	}
	uid, gid := owner(path)
	places := map[string]Place{"a": {Host: "new"}, "b": {Host: "new", Port: 1}}
	for _, try := range []bool{true, false, false} {
		changed, err := placeIn([]string{link}, places, try)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(link)
		t.Logf("%v: %s", changed, text)
	}
	if text, _ := os.ReadFile(link); string(text) != "[databases]\na = host=new password=p\nb = host=new port=1\n" {
		t.Errorf("it is %q", text)
	}
	if text, _ := os.ReadFile(path + OldSuffix); string(text) != was {
		t.Errorf("the old one is %q", text)
	}
	for _, p := range []string{path, path + OldSuffix} {
		if u, g := owner(p); u != uid || g != gid {
			t.Errorf("%s is %d:%d's, was %d:%d's", p, u, g, uid, gid)
		}
	}
	if target, err := os.Readlink(link); err != nil || target != "real.ini" {
		t.Errorf("the link is %q, %v", target, err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 3 {
		t.Errorf("something was left: %v", entries)
	}
	if _, err := placeIn([]string{link}, map[string]Place{"c": {Host: "new"}}, false); err == nil || !strings.Contains(err.Error(), link) {
		t.Errorf("a database that is in no file: %v", err)
	}
	if text, _ := os.ReadFile(path + OldSuffix); string(text) != was {
		t.Error("what changed nothing has replaced what was kept")
	}
}
