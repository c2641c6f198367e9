// Package users resolves user names and paths the way a login would.
package users

import (
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrUnknown says that the guest has no such user.
var ErrUnknown = errors.New("unknown user")

// ErrPath says that a path cannot be used at all.
var ErrPath = errors.New("invalid path")

// longest path the kernel takes, PATH_MAX
const maxPath = 4096

// User is one line of /etc/passwd with its groups.
type User struct {
	Name   string
	Home   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
}

// Lookup finds a user by name. It fails with ErrUnknown.
func Lookup(name string) (User, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return User{}, fmt.Errorf("%w: %s", ErrUnknown, name)
	}
	return fromPasswd(found)
}

// Current is the user that envd itself runs as.
func Current() (User, error) {
	found, err := user.Current()
	if err != nil {
		return User{}, err
	}
	return fromPasswd(found)
}

func fromPasswd(found *user.User) (User, error) {
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	if err != nil {
		return User{}, fmt.Errorf("uid of %s: %w", found.Username, err)
	}
	gid, err := strconv.ParseUint(found.Gid, 10, 32)
	if err != nil {
		return User{}, fmt.Errorf("gid of %s: %w", found.Username, err)
	}
	result := User{Name: found.Username, Home: found.HomeDir, UID: uint32(uid), GID: uint32(gid)}
	ids, err := found.GroupIds()
	if err != nil {
		return User{}, fmt.Errorf("groups of %s: %w", found.Username, err)
	}
	for _, id := range ids {
		group, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return User{}, fmt.Errorf("groups of %s: %w", found.Username, err)
		}
		result.Groups = append(result.Groups, uint32(group))
	}
	return result, nil
}

// Resolve turns a client's path into a clean absolute one: absolute as it is, `~` and `~/x` from the home,
// anything else from workdir, which is absolute or begins with `~`; from the home when workdir is empty. It fails with ErrPath.
func (u User) Resolve(path, workdir string) (string, error) {
	if strings.ContainsRune(path, 0) || strings.ContainsRune(workdir, 0) {
		return "", fmt.Errorf("%w: it contains a NUL byte", ErrPath)
	}
	if len(path) > maxPath {
		return "", fmt.Errorf("%w: longer than %d bytes", ErrPath, maxPath)
	}
	base := u.Home
	if below, ok := strings.CutPrefix(workdir, "~"); ok {
		base = filepath.Join(u.Home, below)
	} else if workdir != "" {
		base = workdir
	}
	switch {
	case path == "~":
		path = u.Home
	case strings.HasPrefix(path, "~/"):
		path = filepath.Join(u.Home, path[2:])
	case strings.HasPrefix(path, "~"):
		return "", fmt.Errorf("%w: '%s' names the home of another user", ErrPath, path)
	case !filepath.IsAbs(path):
		path = filepath.Join(base, path)
	}
	if path = filepath.Clean(path); !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: '%s' has no absolute form", ErrPath, path)
	}
	return path, nil
}
