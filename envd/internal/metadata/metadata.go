// Package metadata keeps a client's notes about a file in its extended attributes, `user.e2b.<key>`.
package metadata

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	headerPrefix = "X-Metadata-"
	prefix       = "user.e2b."
	maxKey       = 255 - len(prefix) // XATTR_NAME_MAX
	maxTotal     = 4096
)

// ErrInvalid says that metadata cannot be kept as it is.
var ErrInvalid = errors.New("invalid metadata")

// FromHeader reads the `X-Metadata-<key>: value` headers of an upload. It fails with ErrInvalid.
func FromHeader(header http.Header) (map[string]string, error) {
	found := map[string]string{}
	total := 0
	for name, values := range header {
		if !strings.HasPrefix(name, headerPrefix) {
			continue
		}
		key, value := strings.ToLower(name[len(headerPrefix):]), values[0]
		if key == "" || len(key) > maxKey {
			return nil, fmt.Errorf("%w: a key has 1 to %d bytes", ErrInvalid, maxKey)
		}
		if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, fmt.Errorf("%w: the key %q is not printable ASCII without spaces", ErrInvalid, key)
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("%w: the value of '%s' is not printable ASCII", ErrInvalid, key)
		}
		if total += len(key) + len(value); total > maxTotal {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxTotal)
		}
		found[key] = value
	}
	return found, nil
}

// Replace makes wanted the whole metadata of an open file. On a file system without attributes it fails only
// if something is wanted.
func Replace(file *os.File, wanted map[string]string) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = replace(int(fd), wanted) })
	return errors.Join(err, failed)
}

func replace(fd int, wanted map[string]string) error {
	names, err := list(func(into []byte) (int, error) { return unix.Flistxattr(fd, into) })
	if err != nil && len(wanted) > 0 {
		return fmt.Errorf("metadata: %w", err)
	}
	for _, name := range names {
		if _, keep := wanted[name]; !keep {
			if err := unix.Fremovexattr(fd, prefix+name); err != nil && !errors.Is(err, unix.ENODATA) {
				return fmt.Errorf("metadata: %w", err)
			}
		}
	}
	for name, value := range wanted {
		if err := unix.Fsetxattr(fd, prefix+name, []byte(value), 0); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
	}
	return nil
}

// Read gives the metadata of path itself, not of what a link leads to; nil when there is none.
func Read(path string) map[string]string {
	names, err := list(func(into []byte) (int, error) { return unix.Llistxattr(path, into) })
	if err != nil || len(names) == 0 {
		return nil
	}
	found := make(map[string]string, len(names))
	for _, name := range names {
		value := make([]byte, maxTotal)
		if n, err := unix.Lgetxattr(path, prefix+name, value); err == nil {
			found[name] = strings.ToValidUTF8(string(value[:n]), "\uFFFD")
		}
	}
	return found
}

// list gives the keys that read, one of the listxattr calls, tells of.
func list(read func([]byte) (int, error)) ([]string, error) {
	size, err := read(nil)
	if err != nil || size == 0 {
		return nil, err
	}
	buffer := make([]byte, size)
	if size, err = read(buffer); err != nil {
		return nil, err
	}
	var names []string
	for name := range strings.SplitSeq(string(buffer[:size]), "\x00") {
		if key, ok := strings.CutPrefix(name, prefix); ok && strings.ToValidUTF8(key, "") == key {
			names = append(names, key)
		}
	}
	return names, nil
}
