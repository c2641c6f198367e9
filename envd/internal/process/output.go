package process

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

const (
	pipeChunk = 64 << 10
	ptyChunk  = 16 << 10

	// A program that goes on writing is read every pause rather than at each of its writes: to be woken for 4 KiB takes
	// an emulated guest longer than to carry 64. Meanwhile it writes on into a larger pipe.
	pause     = time.Millisecond
	pausePipe = 256 << 10
	// how much is told at once before that, and what silence makes a program one that writes anew
	atOnce = 32 << 10
	rest   = 10 * time.Millisecond

	// After the leader's exit, how long its descendants may keep the output open without writing, and how long
	// altogether. Long enough for the `tee` of a process substitution, short enough for `server &`.
	drainQuiet = 200 * time.Millisecond
	drainTotal = 2 * time.Second
)

// longAgo as a deadline fails every read at once.
var longAgo = time.Unix(1, 0)

type outputEvent func(data []byte) *pb.ProcessEvent_DataEvent

// output carries one of a program's streams to the hub.
type output struct {
	file   *os.File
	chunk  int
	event  outputEvent
	exited chan struct{} // closed when the leader has exited

	flow    flow
	widened bool
}

func newOutput(file *os.File, chunk int, event outputEvent) *output {
	return &output{file: file, chunk: chunk, event: event, exited: make(chan struct{})}
}

// flow tells whether a program goes on writing.
type flow struct {
	last    time.Time // of its writing
	carried int       // bytes since it began
}

// goesOn takes what has been read at a time; true for one that has been writing for a while without a rest.
func (f *flow) goesOn(n int, at time.Time) bool {
	if at.Sub(f.last) > rest {
		f.carried = 0
	}
	f.last = at
	f.carried += n
	return f.carried > atOnce
}

func stdoutEvent(data []byte) *pb.ProcessEvent_DataEvent {
	return &pb.ProcessEvent_DataEvent{Output: &pb.ProcessEvent_DataEvent_Stdout{Stdout: data}}
}

func stderrEvent(data []byte) *pb.ProcessEvent_DataEvent {
	return &pb.ProcessEvent_DataEvent{Output: &pb.ProcessEvent_DataEvent_Stderr{Stderr: data}}
}

func ptyEvent(data []byte) *pb.ProcessEvent_DataEvent {
	return &pb.ProcessEvent_DataEvent{Output: &pb.ProcessEvent_DataEvent_Pty{Pty: data}}
}

// copyTo publishes until the stream's end. The leader's exit is told by leaderExited; from then on the stream
// may stay open in the hands of descendants, and only a bounded wait is left. True means it is still open.
func (o *output) copyTo(h *hub) (open bool) {
	read := func() (int, error) {
		data, err := o.read()
		if len(data) > 0 {
			h.publish(&pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: o.event(data)}}, len(data))
		}
		return len(data), err
	}
	for {
		n, err := read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil { // io.EOF, or EIO of a terminal nobody holds
			return false
		}
		if o.flow.goesOn(n, time.Now()) && n < o.chunk {
			o.gather()
		}
	}
	// What is in the pipe now is all that the leader wrote; nothing of it may be lost, however slowly the
	// subscriber reads.
	for left := o.buffered(); left > 0; {
		_ = o.file.SetReadDeadline(time.Time{})
		n, err := read()
		if err != nil {
			return false
		}
		left -= n
	}
	for end := time.Now().Add(drainTotal); time.Now().Before(end); {
		quiet := time.Now().Add(drainQuiet)
		if quiet.After(end) {
			quiet = end
		}
		_ = o.file.SetReadDeadline(quiet)
		if _, err := read(); errors.Is(err, os.ErrDeadlineExceeded) {
			return true
		} else if err != nil {
			return false
		}
	}
	return true
}

// chunks are buffers for one read. Only a read that has something to read holds one: a guest has many programs that
// are silent.
var chunks = sync.Pool{New: func() any { return new([pipeChunk]byte) }}

// read waits for output and gives what is there, at most a chunk.
func (o *output) read() (data []byte, err error) {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) (done bool) {
		buffer := chunks.Get().(*[pipeChunk]byte)
		defer chunks.Put(buffer)
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(int(fd), buffer[:o.chunk]) })
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			failed = err
		case n == 0:
			failed = io.EOF
		default:
			data = bytes.Clone(buffer[:n])
		}
		return true
	})
	return data, errors.Join(err, failed)
}

func ignoringEINTR(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// gather lets more output come, unless the leader has exited.
func (o *output) gather() {
	if raw, err := o.file.SyscallConn(); err == nil && !o.widened {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pausePipe) }) // no terminal has it
		o.widened = true
	}
	select {
	case <-o.exited:
	case <-time.After(pause):
	}
}

// leaderExited makes copyTo begin its bounded wait.
func (o *output) leaderExited() {
	close(o.exited)
	_ = o.file.SetReadDeadline(longAgo)
}

// buffered is the number of bytes that wait in the pipe.
func (o *output) buffered() int {
	count := 0
	raw, err := o.file.SyscallConn()
	if err != nil {
		return 0
	}
	if err := raw.Control(func(fd uintptr) {
		count, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	}); err != nil {
		return 0
	}
	if err != nil {
		return 0
	}
	return count
}

// discard reads the rest for descendants that outlive the program's end: closing the pipe would kill a
// background server at its next line of log.
func (o *output) discard() {
	_ = o.file.SetReadDeadline(time.Time{})
	for {
		if _, err := o.read(); err != nil {
			break
		}
	}
	_ = o.file.Close()
}
