// Package dirs makes directories on behalf of a user.
package dirs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

// Make makes path and what is missing above it; what it makes belongs to owner. A path that is there already
// is no error if it leads to a directory, else it fails with unix.ENOTDIR.
func Make(path string, owner users.User) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if parent := filepath.Dir(path); parent != path {
		if err := Make(parent, owner); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o755); errors.Is(err, fs.ErrExist) {
		return onlyDirectory(path) // somebody else was faster, or a link leads nowhere
	} else if err != nil {
		return err
	}
	return Chown(path, owner)
}

func onlyDirectory(path string) error {
	if info, err := os.Stat(path); err != nil {
		return err
	} else if !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: path, Err: unix.ENOTDIR}
	}
	return nil
}

// Chown gives path to owner; without privileges everything belongs to envd's own user anyway.
func Chown(path string, owner users.User) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(owner.UID), int(owner.GID))
}
