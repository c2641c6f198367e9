package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/dirs"
	"github.com/wrenn-dev/wrenn/envd/internal/metadata"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

const copyBuffer = 64 << 10

// receive makes body the content of the file at path, or leaves the file as it was.
//
// Whoever watches the directory must see a new file as exactly CREATE, CHMOD, WRITE and an old one as WRITE, so
// nothing is renamed into place: a new file is written where it belongs and removed if the upload breaks off;
// an old one is overwritten in place, once the whole upload is here.
func (h *Handler) receive(body io.Reader, path string, owner users.User, notes map[string]string) error {
	if err := dirs.Make(filepath.Dir(path), owner); err != nil {
		return fmt.Errorf("parent directory of '%s': %w", path, err)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return create(body, path, owner, notes)
	case err != nil:
		return err
	case info.IsDir():
		return fail(http.StatusBadRequest, "path '%s' is a directory", path)
	case !info.Mode().IsRegular():
		return fail(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	return h.overwrite(body, path, owner, notes)
}

func create(body io.Reader, path string, owner users.User, notes map[string]string) error {
	// Without O_EXCL: the path may be a link to a file that is not there yet.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o666)
	if err != nil {
		return err
	}
	if err = prepare(file, owner, notes); err == nil {
		_, err = copyPlain(file, body)
	}
	if err != nil {
		removeIfSame(path, file)
	}
	return errors.Join(err, file.Close())
}

func (h *Handler) overwrite(body io.Reader, path string, owner users.User, notes map[string]string) error {
	start := make([]byte, copyBuffer)
	n, whole, err := fill(body, start)
	if err != nil {
		return err
	}
	var rest *os.File
	size := int64(n)
	if !whole {
		if rest, err = spool(h.machine.ScratchDir()); err != nil {
			return err
		}
		defer rest.Close()
		more, err := copyPlain(rest, body)
		if err != nil {
			return err
		}
		if _, err := rest.Seek(0, io.SeekStart); err != nil {
			return err
		}
		size += more
	}
	file, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	err = replace(file, start[:n], rest, size, owner, notes)
	return errors.Join(err, file.Close())
}

// replace overwrites an open file once its new size is known to fit.
func replace(file *os.File, start []byte, rest *os.File, size int64, owner users.User, notes map[string]string) error {
	err := reserve(file, size)
	if err == nil {
		err = prepare(file, owner, notes)
	}
	if err != nil {
		return errors.Join(err, giveBack(file))
	}
	if _, err := file.Write(start); err != nil {
		return err
	}
	if rest != nil {
		if _, err := io.Copy(file, rest); err != nil { // in the kernel
			return err
		}
	}
	if info, err := file.Stat(); err != nil || info.Size() <= size {
		return err
	}
	return file.Truncate(size)
}

// reserve allocates the blocks of a file, so that overwriting it cannot run out of space half way.
func reserve(file *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	})
	if errors.Is(failed, unix.EOPNOTSUPP) || errors.Is(failed, unix.ENODEV) {
		failed = nil // such as procfs
	}
	return errors.Join(err, failed)
}

// giveBack frees the blocks past the end of a file: ext4 keeps what it could allocate before the disk was full.
func giveBack(file *os.File) error {
	info, err := file.Stat()
	if err != nil || blocks(info)*512 <= info.Size()+copyBuffer {
		return err
	}
	return file.Truncate(info.Size())
}

// prepare sets owner and metadata next to each other: a watcher sees one CHMOD.
func prepare(file *os.File, owner users.User, notes map[string]string) error {
	if os.Geteuid() == 0 {
		if err := file.Chown(int(owner.UID), int(owner.GID)); err != nil {
			return err
		}
	}
	return metadata.Replace(file, notes)
}

// fill reads until into is full; whole says that the body ended before.
func fill(body io.Reader, into []byte) (n int, whole bool, err error) {
	for n < len(into) {
		m, err := body.Read(into[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return n, true, nil
		} else if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

// spool makes a file without a name, away from the target: a write to it would be seen by a watcher of its
// directory.
func spool(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(dir, "upload-")
	if err != nil {
		return nil, err
	}
	return file, os.Remove(file.Name())
}

func copyPlain(to *os.File, from io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, copyBuffer))
}

// removeIfSame removes the open file unless somebody has put another file there meanwhile.
func removeIfSame(path string, file *os.File) {
	var ours, there unix.Stat_t
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Fstat(int(fd), &ours) }); err != nil || failed != nil {
		return
	}
	if unix.Lstat(path, &there) == nil && ours.Dev == there.Dev && ours.Ino == there.Ino {
		_ = os.Remove(path)
	}
}
