package process

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

const (
	pipeChunk = 32 << 10
	ptyChunk  = 16 << 10

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
	file  *os.File
	chunk int
	event outputEvent
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
	buffer := make([]byte, o.chunk)
	read := func() (int, error) {
		n, err := o.file.Read(buffer)
		if n > 0 {
			data := append([]byte(nil), buffer[:n]...)
			h.publish(&pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: o.event(data)}}, n)
		}
		return n, err
	}
	for {
		if _, err := read(); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil { // io.EOF, or EIO of a terminal nobody holds
			return false
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

// leaderExited makes copyTo begin its bounded wait.
func (o *output) leaderExited() { _ = o.file.SetReadDeadline(longAgo) }

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
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{o.file}, make([]byte, 4<<10))
	_ = o.file.Close()
}
