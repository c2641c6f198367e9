package users

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// A path that is accepted is absolute, clean, and means the same when it is given again.
func FuzzResolve(f *testing.F) {
	for _, seed := range []string{
		"", "/", "~", "~/x", "~user", "a/../../b", "../../..", "//a//b/", ".", "a\x00", "\xff", "~/../..", strings.Repeat("a/", 2100), "~\x00",
	} {
		f.Add(seed, "")
		f.Add(seed, "/work")
		f.Add("a", seed)
	}
	f.Fuzz(func(t *testing.T, path, workdir string) {
		if workdir != "" && workdir != "~" && !strings.HasPrefix(workdir, "~/") && !filepath.IsAbs(workdir) {
			return // /init has refused it
		}
		user := User{Name: "user", Home: "/home/user"}
		resolved, err := user.Resolve(path, workdir)
		if err != nil {
			if !errors.Is(err, ErrPath) || resolved != "" {
				t.Fatalf("%q: %q %v", path, resolved, err)
			}
			return
		}
		if !filepath.IsAbs(resolved) || filepath.Clean(resolved) != resolved || strings.Contains(resolved, "/../") {
			t.Fatalf("%q in %q: %q", path, workdir, resolved)
		}
		if len(resolved) > 4096 {
			return
		}
		if again, err := user.Resolve(resolved, workdir); err != nil || again != resolved {
			t.Fatalf("%q in %q: %q, and again %q %v", path, workdir, resolved, again, err)
		}
	})
}
