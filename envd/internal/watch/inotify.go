package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// interest is what the kernel shall tell of a directory and of what is in it. Symbolic links are not followed: they
// may lead anywhere, also up the tree.
const interest = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_DELETE | unix.IN_DELETE_SELF |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW

const readSize = 16 << 10

var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// notice is one struct inotify_event of inotify(7).
type notice struct {
	wd     int32
	mask   uint32
	cookie uint32 // the same for both halves of a rename
	name   string // of the entry in the directory, "" for the directory itself
}

// parse takes the first notice off what was read. ok is false when data does not begin with a whole one.
func parse(data []byte) (first notice, rest []byte, ok bool) {
	if len(data) < unix.SizeofInotifyEvent {
		return notice{}, nil, false
	}
	end := uint64(unix.SizeofInotifyEvent) + uint64(binary.NativeEndian.Uint32(data[12:]))
	if end > uint64(len(data)) {
		return notice{}, nil, false
	}
	name, _, _ := bytes.Cut(data[unix.SizeofInotifyEvent:end], []byte{0}) // padded with zeros
	return notice{
		wd:     int32(binary.NativeEndian.Uint32(data)),
		mask:   binary.NativeEndian.Uint32(data[4:]),
		cookie: binary.NativeEndian.Uint32(data[8:]),
		name:   string(name),
	}, data[end:], true
}

// queue is the kernel's end: an inotify instance. Its descriptor is used by its owner alone.
type queue struct {
	file *os.File
	fd   int
}

func openQueue() (*queue, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return nil, fmt.Errorf("%w: fs.inotify.max_user_instances or the limit of open files is reached", ErrLimit)
	} else if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return &queue{file: os.NewFile(uintptr(fd), "inotify"), fd: fd}, nil
}

// add begins to watch a directory; one that is watched already keeps its number.
func (q *queue) add(path string) (wd int32, err error) {
	number, err := unix.InotifyAddWatch(q.fd, path, interest)
	if errors.Is(err, unix.ENOSPC) {
		return 0, fmt.Errorf("%w: fs.inotify.max_user_watches is reached", ErrLimit)
	} else if err != nil {
		return 0, &os.PathError{Op: "watch", Path: path, Err: err}
	}
	return int32(number), nil
}

// forget ends the watch of one directory; it may be gone by itself.
func (q *queue) forget(wd int32) { _, _ = unix.InotifyRmWatch(q.fd, uint32(wd)) }

// waiting is the number of bytes that a read would give.
func (q *queue) waiting() int {
	count, err := unix.IoctlGetInt(q.fd, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return count
}

// read appends to into what one read gives, nothing when nothing is there.
func (q *queue) read(into []byte) []byte {
	buffer := readBuffers.Get().(*[readSize]byte)
	defer readBuffers.Put(buffer)
	for {
		n, err := unix.Read(q.fd, buffer[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return append(into, buffer[:max(n, 0)]...)
	}
}
