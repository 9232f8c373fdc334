package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// settingsFile is included by every data directory's postgresql.conf; a server writes its settings
// there. What ALTER SYSTEM sets goes before it.
const settingsFile = "pgtest.conf"

// initialize makes dataDir a new cluster with an identity of its own.
func initialize(ctx context.Context, b binaries, a account, dataDir, password string) error {
	// initdb takes seconds. A copy of what it made once takes a few tenths of one.
	template, err := templateOf(ctx, b, a)
	if err != nil {
		return fmt.Errorf("make the template data directory of PostgreSQL %d: %w", b.major, err)
	}
	if err := copyTree(a, template, dataDir); err != nil {
		return fmt.Errorf("copy the template data directory: %w", err)
	}
	if err := newIdentity(dataDir); err != nil {
		return fmt.Errorf("give the data directory an identity: %w", err)
	}
	if password != "" {
		if err := setPassword(ctx, b, a, dataDir, password); err != nil {
			return fmt.Errorf("set the superuser's password: %w", err)
		}
	}
	return nil
}

// setPassword gives the superuser a password and has it asked for over TCP.
func setPassword(ctx context.Context, b binaries, a account, dataDir, password string) error {
	if strings.ContainsAny(password, "\n\x00") {
		return errors.New("a password is one line")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "postgres"), "--single", "-D", dataDir,
		"-c", "fsync=off", "-c", "password_encryption=scram-sha-256", "-c", "exit_on_error=on", superuser)
	cmd.Env, cmd.Dir = b.env(), dataDir
	cmd.Stdin = strings.NewReader("alter role " + superuser + " password '" + strings.ReplaceAll(password, "'", "''") + "'\n")
	a.run(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	path := filepath.Join(dataDir, "pg_hba.conf")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if rest, ok := strings.CutSuffix(line, "trust"); ok && strings.HasPrefix(line, "host") {
			lines[i] = rest + "scram-sha-256"
		}
	}
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600)
}

// templateOf returns the template data directory of an installation, made on first use.
func templateOf(ctx context.Context, b binaries, a account) (string, error) {
	version, err := b.version(ctx)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	// Different builds of one version may differ in page layout and locales.
	name := version + strings.ReplaceAll(b.bin, string(filepath.Separator), "-")
	template := filepath.Join(cache, "templates", name)
	if _, err := os.Stat(template); err == nil {
		return template, nil
	}
	unlock, err := lock("template-" + name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(template); err == nil {
		return template, nil
	}
	if err := os.MkdirAll(filepath.Dir(template), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(template), ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := a.own(work); err != nil {
		return "", err
	}
	made := filepath.Join(work, "data")
	if err := initdb(ctx, b, a, made); err != nil {
		return "", err
	}
	return template, os.Rename(made, template)
}

func initdb(ctx context.Context, b binaries, a account, dataDir string) error {
	args := []string{"-D", dataDir, "-U", superuser, "-E", "UTF8", "--no-sync", "--auth=trust"}
	var err error
	for _, locale := range []string{"C.UTF-8", "C"} { // not every system has the first
		cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "initdb"), append(args, "--locale="+locale)...)
		cmd.Env, cmd.Dir = b.env(), "/"
		a.run(cmd)
		var out []byte
		if out, err = cmd.CombinedOutput(); err == nil {
			break
		}
		err = fmt.Errorf("initdb: %w: %s", err, out)
		if ctx.Err() != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(dataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(conf, "\ninclude_if_exists '%s'\n", settingsFile)
	return errors.Join(err, conf.Close())
}

// copyTree copies a data directory and gives the copy to the account.
func copyTree(a account, from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		at := filepath.Join(to, rel)
		if entry.IsDir() {
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
			return a.own(at)
		}
		return copyFile(a, path, at)
	})
}

func copyFile(a account, from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close(), a.own(to))
}
