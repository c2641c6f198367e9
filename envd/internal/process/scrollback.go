package process

import (
	"bytes"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

// How much a terminal's output that nobody takes is kept, in bytes; after its end, while it can be connected to.
const (
	scrollBytes      = 64 << 10
	scrollBytesEnded = 4 << 10
)

// scrollback is the last of a terminal's output since its last subscriber has left. A nil one keeps nothing.
type scrollback struct {
	data []byte
	cut  bool // data does not begin where the output did
}

func (s *scrollback) add(events ...*pb.ProcessEvent) {
	if s == nil {
		return
	}
	for _, event := range events {
		s.data = append(s.data, event.GetData().GetPty()...)
	}
	s.trim(scrollBytes)
}

func (s *scrollback) trim(limit int) {
	if over := len(s.data) - limit; over > 0 {
		s.data = s.data[:copy(s.data, s.data[over:])]
		s.cut = true
	}
}

func (s *scrollback) shrink() {
	if s != nil {
		s.trim(scrollBytesEnded)
		s.data = bytes.Clone(s.data)
	}
}

// take gives all of it and empties it. After a cut it begins with a whole line, not within an escape sequence.
func (s *scrollback) take() (events []*pb.ProcessEvent) {
	if s == nil {
		return nil
	}
	rest := s.data
	if s.cut {
		rest = rest[bytes.IndexByte(rest, '\n')+1:]
	}
	s.data, s.cut = nil, false
	for len(rest) > 0 {
		chunk := rest[:min(len(rest), ptyChunk)]
		rest = rest[len(chunk):]
		events = append(events, &pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: ptyEvent(chunk)}})
	}
	return events
}
