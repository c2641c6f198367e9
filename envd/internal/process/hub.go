package process

import (
	"errors"
	"slices"
	"sync"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

// How much output may wait for one subscriber, in bytes. The pacing subscriber holds the program back early;
// the others get room for a hiccup.
const (
	paceBytes = 128 << 10
	slowBytes = 1 << 20
	// what one queued event costs beside its payload
	eventBytes = 256
)

var errSlow = errors.New("the subscriber read too slowly and was cut off from the output")

// hub hands the events of one program to its subscribers, each in the same order.
//
// The oldest subscriber paces the program: its full queue blocks publish, then the pipe fills, then the
// program waits. So output is never lost to whoever started it. The others never hold the program back: one
// that falls too far behind is cut off with an error rather than given a text with holes. When the oldest
// leaves, the next one takes its place; with nobody there output is dropped, or kept for the next one if it is a
// terminal's.
type hub struct {
	publishing sync.Mutex // held for a whole publish: one order for all

	mu     sync.Mutex
	subs   []*subscriber // the oldest first
	scroll *scrollback   // nil: output that nobody takes is dropped
	ended  bool
}

// subscriber is one reader's queue.
type subscriber struct {
	mu     sync.Mutex
	queue  []*pb.ProcessEvent
	bytes  int
	closed bool  // nothing more will come
	err    error // why, when not by the end of the program

	ready chan struct{} // capacity 1: the queue has grown or closed
	room  chan struct{} // capacity 1: the queue has shrunk
	gone  chan struct{} // the reader has left
}

// subscribe adds a reader, whose first events are what nobody has taken; nil when the program has ended.
func (h *hub) subscribe() *subscriber {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return nil
	}
	s := &subscriber{
		ready: make(chan struct{}, 1),
		room:  make(chan struct{}, 1),
		gone:  make(chan struct{}),
		queue: h.scroll.take(),
	}
	h.subs = append(h.subs, s)
	return s
}

// leave removes a reader; safe to repeat. What it has not taken is kept if nobody else gets it.
func (h *hub) leave(s *subscriber) {
	if h.remove(s, true) {
		close(s.gone)
	}
}

func (h *hub) remove(s *subscriber, keep bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, other := range h.subs {
		if other == s {
			h.subs = append(h.subs[:i:i], h.subs[i+1:]...)
			if keep && len(h.subs) == 0 {
				events, _, _ := s.take()
				h.scroll.add(events...)
			}
			return true
		}
	}
	return false
}

// attended tells whether anybody reads.
func (h *hub) attended() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) > 0
}

// readers gives the readers of an event; when there are none, the event is kept.
func (h *hub) readers(event *pb.ProcessEvent) []*subscriber {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subs) == 0 {
		h.scroll.add(event)
	}
	return h.subs[:len(h.subs):len(h.subs)]
}

// missed gives what nobody has taken of a program that has ended.
func (h *hub) missed() []*pb.ProcessEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scroll.take()
}

// publish hands over one event of size payload bytes and waits while the pacing subscriber is full.
func (h *hub) publish(event *pb.ProcessEvent, size int) {
	h.publishing.Lock()
	defer h.publishing.Unlock()
	for {
		readers := h.readers(event)
		for i, s := range readers {
			if i > 0 && !s.push(event, size, slowBytes) && h.remove(s, false) {
				s.close(errSlow)
			}
		}
		if len(readers) == 0 || readers[0].pushPaced(event, size) || len(readers) > 1 {
			return
		}
		// The only reader has left without it: it is for whoever came meanwhile.
	}
}

// finish hands over the last event and closes all queues behind it.
func (h *hub) finish(end *pb.ProcessEvent) {
	h.publishing.Lock()
	defer h.publishing.Unlock()
	h.mu.Lock()
	readers := h.subs
	h.subs, h.ended = nil, true
	h.scroll.shrink()
	h.mu.Unlock()
	for _, s := range readers {
		s.push(end, 0, int(^uint(0)>>1))
		s.close(nil)
	}
}

// push appends unless the queue holds limit bytes already.
func (s *subscriber) push(event *pb.ProcessEvent, size, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes >= limit {
		return false
	}
	s.queue = append(s.queue, event)
	s.bytes += size + eventBytes
	wake(s.ready)
	return true
}

// pushPaced waits for room; false when the reader has left.
func (s *subscriber) pushPaced(event *pb.ProcessEvent, size int) bool {
	for !s.push(event, size, paceBytes) {
		select {
		case <-s.room:
		case <-s.gone:
			return false
		}
	}
	return true
}

func (s *subscriber) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.err = true, err
	wake(s.ready)
}

// take empties the queue. With closed true nothing follows these events.
func (s *subscriber) take() (events []*pb.ProcessEvent, closed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, s.queue, s.bytes = s.queue, nil, 0
	wake(s.room)
	return events, s.closed, s.err
}

// giveBack undoes a take of events that could not be delivered.
func (s *subscriber) giveBack(events []*pb.ProcessEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(slices.Clip(events), s.queue...)
}

func wake(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}
