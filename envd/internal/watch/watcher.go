// Package watch tells what changes in a directory, by inotify: which event, of which name, in the kernel's order.
package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

const (
	// What may wait to be taken: about 4,000 events of short names. Behind it is the kernel's own queue
	// (fs.inotify.max_queued_events, 16,384).
	maxBytes = 512 << 10
	// what one event costs beside its name and entry
	eventBytes = 96
	// what may have been read and not handled, in bytes: about what the kernel's own queue holds
	maxPending = 4 << 20
	// After an event, which is told at once, how long the next ones gather: 10,000 a second, each on its own, would take
	// more of an emulated guest's time than making them.
	pause = 5 * time.Millisecond
	// how many directories one watcher follows; each costs about 1 KiB of the kernel's memory
	maxDirs = 8192
	// how many entries of a new directory are announced; more would not fit the events
	maxEntries = maxBytes / eventBytes
)

// Failures of a watcher.
var (
	// ErrLost says that events are missing after those taken so far. The watcher has ended.
	ErrLost = errors.New("events were lost: more happened than was read in time")
	// ErrLimit says that the guest can watch no more.
	ErrLimit = errors.New("too much is watched already")
	// ErrNetwork says that the directory is on a file system that does not tell of all changes.
	ErrNetwork = errors.New("a network or FUSE file system does not tell of changes made elsewhere: " +
		"watch it with allow_network_mounts")
)

// longAgo as a deadline fails every read at once.
var longAgo = time.Unix(1, 0)

// Options say what a watcher tells.
type Options struct {
	Recursive     bool
	NetworkMounts bool // also directories on file systems of the network and in user space
	// Describe gives the entry of a path for events that have one; nil for events without entries.
	Describe func(path string) *pb.EntryInfo
}

// Watcher collects the events of one directory until they are taken.
//
// In the recursive mode each directory below is watched as soon as its creation is told. What was put into it before
// that is found by listing it, and announced as if it had been told.
type Watcher struct {
	root     string // as the client knows it
	resolved string // without links
	options  Options
	ready    chan struct{} // capacity 1: there are events, or the watcher has failed
	file     *os.File      // the queue's; run closes it
	done     chan struct{} // it has

	mu      sync.Mutex
	queue   *queue // nil: nothing more comes
	tree    *tree
	pending []byte          // read and not handled yet
	moving  map[uint32]*dir // directories that have left their place, by the cookie of the rename
	events  []*pb.FilesystemEvent
	bytes   int
	failed  error
}

// Open watches the directory at path, which the caller closes. It fails with fs.ErrNotExist, unix.ENOTDIR, ErrNetwork
// or ErrLimit.
func Open(ctx context.Context, path string, options Options) (*Watcher, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if !options.NetworkMounts && onNetwork(resolved) {
		return nil, ErrNetwork
	}
	queue, err := openQueue()
	if err != nil {
		return nil, err
	}
	wd, err := queue.add(resolved)
	if err != nil {
		return nil, errors.Join(err, queue.file.Close())
	}
	w := &Watcher{
		root: path, resolved: resolved, options: options, ready: make(chan struct{}, 1), file: queue.file,
		done: make(chan struct{}), queue: queue, tree: newTree(wd), moving: map[uint32]*dir{},
	}
	if options.Recursive {
		if err := w.descend(ctx, w.tree.root); err != nil {
			return nil, errors.Join(err, queue.file.Close())
		}
	}
	go w.run()
	return w, nil
}

// Ready has a value when there may be something to take.
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Close ends the watcher.
func (w *Watcher) Close() {
	w.mu.Lock()
	w.end()
	w.mu.Unlock()
	<-w.done
}

// Take gives the events of everything that had happened before the call and was not taken yet. An error follows
// the last event.
func (w *Watcher) Take() ([]*pb.FilesystemEvent, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for left := w.waiting(); left > 0 && w.queue != nil; {
		read := w.fill()
		if len(read) == 0 {
			break
		}
		left -= len(read)
		w.handlePending()
	}
	events := w.events
	w.events, w.bytes = nil, 0
	return events, w.failed
}

// run handles what comes, also while nobody takes it: a new directory must be watched at once.
func (w *Watcher) run() {
	defer close(w.done)
	defer w.file.Close()
	raw, err := w.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(uintptr) (ended bool) {
		for {
			if more, ended := w.pump(); !more {
				time.Sleep(pause)
				return ended
			}
		}
	})
}

// pump handles one read. With more false the kernel had nothing left.
func (w *Watcher) pump() (more, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue == nil {
		return false, true
	}
	more = len(w.fill()) > 0
	w.handlePending()
	return more, false
}

func (w *Watcher) waiting() int {
	if w.queue == nil {
		return 0
	}
	return w.queue.waiting()
}

// fill reads once and gives what that added to pending.
func (w *Watcher) fill() []byte {
	before := len(w.pending)
	if before > maxPending { // the listing of new directories takes longer than making them
		w.fail(ErrLost)
		return nil
	}
	w.pending = w.queue.read(w.pending)
	return w.pending[before:]
}

func (w *Watcher) handlePending() {
	for w.queue != nil {
		next, rest, ok := parse(w.pending)
		if !ok {
			break
		}
		w.pending = rest
		w.handle(next)
	}
	w.pending = nil
	if len(w.moving) == 0 || w.waiting() > 0 { // the other half of a rename may come
		return
	}
	for _, gone := range w.moving {
		w.leave(gone)
	}
}

func (w *Watcher) handle(n notice) {
	if n.mask&unix.IN_Q_OVERFLOW != 0 {
		w.fail(ErrLost)
		return
	}
	at := w.tree.byWD[n.wd]
	if at == nil {
		return
	}
	has := func(bits uint32) bool { return n.mask&bits != 0 }
	follow := has(unix.IN_ISDIR) && w.options.Recursive
	switch {
	case has(unix.IN_IGNORED): // deleted or unmounted
		w.leave(at)
	case n.name == "":
		w.handleSelf(at, n.mask)
	case has(unix.IN_CREATE):
		w.push(at, n.name, pb.EventType_EVENT_TYPE_CREATE)
		if follow {
			w.enter(at, n.name)
		}
	case has(unix.IN_MOVED_TO):
		w.push(at, n.name, pb.EventType_EVENT_TYPE_CREATE)
		if moved := w.moving[n.cookie]; moved != nil {
			delete(w.moving, n.cookie)
			w.put(moved, at, n.name)
		} else if follow {
			w.enter(at, n.name)
		}
	case has(unix.IN_MOVED_FROM):
		w.push(at, n.name, pb.EventType_EVENT_TYPE_RENAME)
		if moved := w.tree.detach(at, n.name); moved != nil {
			if lost := w.moving[n.cookie]; lost != nil {
				w.leave(lost)
			}
			w.moving[n.cookie] = moved
		}
	case has(unix.IN_DELETE):
		w.push(at, n.name, pb.EventType_EVENT_TYPE_REMOVE)
	case has(unix.IN_MODIFY):
		w.push(at, n.name, pb.EventType_EVENT_TYPE_WRITE)
	case has(unix.IN_ATTRIB):
		w.push(at, n.name, pb.EventType_EVENT_TYPE_CHMOD)
	}
}

// handleSelf handles what happened to a watched directory itself. Those below the root are told of by their parents.
func (w *Watcher) handleSelf(at *dir, mask uint32) {
	if at != w.tree.root {
		return
	}
	switch {
	case mask&unix.IN_DELETE_SELF != 0:
		w.push(at, "", pb.EventType_EVENT_TYPE_REMOVE)
	case mask&unix.IN_ATTRIB != 0:
		w.push(at, "", pb.EventType_EVENT_TYPE_CHMOD)
	case mask&unix.IN_MOVE_SELF != 0:
		// What is at the path now is another directory, or nothing.
		w.push(at, "", pb.EventType_EVENT_TYPE_RENAME)
		w.end()
	}
}

// push makes an event wait. The same event twice in a row is one, as in the kernel's own queue, however fast that one is
// read: so the many writes of one file are one event to whoever asks afterwards.
func (w *Watcher) push(at *dir, entry string, kind pb.EventType) {
	if w.queue == nil {
		return
	}
	path, ok := w.tree.path(at, entry)
	if !ok {
		return
	}
	event := &pb.FilesystemEvent{Name: strings.ToValidUTF8(path, "\uFFFD"), Type: kind}
	gone := kind == pb.EventType_EVENT_TYPE_REMOVE || kind == pb.EventType_EVENT_TYPE_RENAME
	if w.options.Describe != nil && !gone {
		event.Entry = w.options.Describe(filepath.Join(w.root, path))
	}
	if last := len(w.events) - 1; last >= 0 && w.events[last].Name == event.Name && w.events[last].Type == kind {
		w.events[last] = event
		return
	}
	if w.bytes += eventBytes + proto.Size(event); w.bytes > maxBytes {
		w.fail(ErrLost)
		return
	}
	w.events = append(w.events, event)
	w.wake()
}

// fail ends the watcher with an error behind its last event.
func (w *Watcher) fail(err error) {
	if w.queue == nil {
		return
	}
	w.failed = err
	w.end()
	w.wake()
}

// end lets nothing more come. The events that wait stay.
func (w *Watcher) end() {
	w.queue, w.tree, w.pending = nil, nil, nil
	clear(w.moving)
	_ = w.file.SetReadDeadline(longAgo) // run closes the file: to close it here would wait for run's callback
}

func (w *Watcher) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}
