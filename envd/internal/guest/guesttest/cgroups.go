// Package guesttest lends tests a corner of the machine's cgroup2.
package guesttest

import (
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
)

// Cgroups sets the groups up in a cgroup of the test's own, whose directory it gives too. It skips the test where
// there is none to be had.
func Cgroups(t *testing.T) (cgroups *guest.Cgroups, root string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			root = fields[1]
		}
	}
	if root == "" {
		t.Skip("no cgroup2 is mounted here")
	}
	root, err = os.MkdirTemp(root, "envd-test-")
	if err != nil {
		t.Skipf("making a cgroup needs root: %v", err)
	}
	t.Cleanup(func() { // a cgroup has no files to delete: rmdir from the leaves up
		for _, pattern := range []string{"*/*", "*", ""} {
			dirs, _ := filepath.Glob(filepath.Join(root, pattern))
			for _, dir := range dirs {
				_ = os.Remove(dir)
			}
		}
	})
	log.SetOutput(io.Discard) // of controllers that are not here
	defer log.SetOutput(os.Stderr)
	if cgroups, err = guest.SetupCgroups(root); err != nil || cgroups == nil {
		t.Fatalf("cgroups: %v", err)
	}
	return cgroups, root
}
