package process

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

func ptyOutput(text string) *pb.ProcessEvent {
	return &pb.ProcessEvent{Event: &pb.ProcessEvent_Data{Data: ptyEvent([]byte(text))}}
}

func joined(events []*pb.ProcessEvent) string {
	var b strings.Builder
	for _, event := range events {
		b.Write(event.GetData().GetPty())
	}
	return b.String()
}

func TestScrollbackIsBounded(t *testing.T) {
	s := &scrollback{}
	s.add(ptyOutput("short"))
	if got := joined(s.take()); got != "short" {
		t.Errorf("got %q", got)
	}
	if got := s.take(); len(got) != 0 {
		t.Errorf("a second time: %v", got)
	}
	for range 1000 {
		s.add(ptyOutput(strings.Repeat("x", 999) + "\n"))
	}
	if cap(s.data) > 2*scrollBytes {
		t.Errorf("it holds %d bytes", cap(s.data))
	}
	events := s.take()
	if got := joined(events); len(got) != 65_000 || !strings.HasPrefix(got, "xxx") {
		t.Errorf("%d bytes, not whole lines: %.20q", len(got), got)
	}
	if len(events) != 4 {
		t.Errorf("%d events", len(events))
	}
	s.add(ptyOutput(strings.Repeat("x", 2*scrollBytes)))
	if got := joined(s.take()); len(got) != scrollBytes {
		t.Errorf("without a line end: %d bytes", len(got))
	}
	s.add(ptyOutput(strings.Repeat("x", scrollBytes)))
	s.shrink()
	if got := joined(s.take()); len(got) != scrollBytesEnded {
		t.Errorf("at the end: %d bytes", len(got))
	}
	(*scrollback)(nil).add(ptyOutput("x"))
	(*scrollback)(nil).shrink()
	if got := (*scrollback)(nil).take(); got != nil {
		t.Errorf("got %v", got)
	}
}

// Nothing that one reader was not given is lost to the next one, and nothing is given twice.
func TestWhatAReaderLeavesIsTheNextOnes(t *testing.T) {
	h := &hub{scroll: &scrollback{}}
	first := h.subscribe()
	for _, text := range []string{"a", "b", "c"} {
		h.publish(ptyOutput(text), 1)
	}
	events, _, _ := first.take()
	h.publish(ptyOutput("d"), 1)
	first.giveBack(events[1:]) // "a" was sent
	h.leave(first)
	h.publish(ptyOutput("e"), 1)
	second := h.subscribe()
	h.publish(ptyOutput("f"), 1)
	third := h.subscribe()
	h.leave(second) // somebody else is there
	events, _, _ = second.take()
	if got := joined(events); got != "bcdef" {
		t.Errorf("got %q", got)
	}
	h.publish(ptyOutput("g"), 1)
	events, _, _ = third.take()
	if got := joined(events); got != "g" {
		t.Errorf("got %q", got)
	}
}

// The event that waited for a reader which then left is for the one that came meanwhile.
func TestABlockedEventIsTheNextOnes(t *testing.T) {
	h := &hub{}
	first := h.subscribe()
	h.publish(ptyOutput("full"), paceBytes)
	published := make(chan struct{})
	go func() {
		defer close(published)
		h.publish(ptyOutput("waits"), 1)
	}()
	eventually(t, "the event waits", func() bool {
		if !h.publishing.TryLock() {
			return true
		}
		h.publishing.Unlock()
		return false
	})
	h.mu.Lock()
	h.subs = h.subs[:0:0]
	h.mu.Unlock()
	second := h.subscribe()
	close(first.gone)
	<-published
	events, _, _ := second.take()
	if got := joined(events); got != "waits" {
		t.Errorf("got %q", got)
	}
}

func terminalRunning(script string) *pb.StartRequest {
	request := shell("stty -echo -onlcr; " + script)
	request.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: 80, Rows: 24}}
	return request
}

// press writes to a terminal.
func (f *fixture) press(pid uint32, keys string) {
	f.t.Helper()
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte(keys)}}
	_, err := f.client.SendInput(context.Background(), connect.NewRequest(&pb.SendInputRequest{Process: byPid(pid), Input: input}))
	if err != nil {
		f.t.Fatal(err)
	}
}

// All of them see the same.
func TestTerminalHasSeveralSubscribers(t *testing.T) {
	f := newFixture(t)
	r := f.start(terminalRunning("echo ready; read line; read line; seq 1 5000; exit 3"))
	r.until("ready\n") // its echo is off
	var others []*connect.ServerStreamForClient[pb.ConnectResponse]
	for range 2 {
		stream, err := f.connect(byPid(r.pid))
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, stream)
		f.press(r.pid, "\n")
	}
	first := r.rest()
	if len(first.pty) != 23893 || first.end.GetExitCode() != 3 {
		t.Errorf("%d bytes, end %v", len(first.pty), first.end)
	}
	for _, stream := range others {
		var got outcome
		for stream.Receive() {
			got.add(t, stream.Msg().GetEvent())
		}
		if !bytes.Equal(got.pty, first.pty) || got.end.GetExitCode() != 3 {
			t.Errorf("%d bytes, end %v, %v", len(got.pty), got.end, stream.Err())
		}
	}
}

func TestDetachedTerminalKeepsItsOutput(t *testing.T) {
	f := newFixture(t)
	r := f.start(terminalRunning("echo seen; read line; seq 1 3; echo last; exec sleep 60"))
	r.until("seen\n")
	r.cancel()
	eventually(t, "the terminal is detached", func() bool { return f.subscribers(r.pid) == 0 })
	f.press(r.pid, "\n")
	stream, err := f.connect(byPid(r.pid))
	if err != nil {
		t.Fatal(err)
	}
	var got outcome
	for !strings.HasSuffix(string(got.pty), "last\n") {
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		got.add(t, stream.Msg().GetEvent())
	}
	if string(got.pty) != "1\n2\n3\nlast\n" {
		t.Errorf("got %q", got.pty)
	}
}

func TestTerminalThatEndedDetachedTellsItsLastWords(t *testing.T) {
	f := newFixture(t)
	r := f.start(terminalRunning("echo seen; read line; echo last words; exit 3"))
	r.until("seen\n")
	r.cancel()
	eventually(t, "the terminal is detached", func() bool { return f.subscribers(r.pid) == 0 })
	f.press(r.pid, "\n")
	eventually(t, "it has ended", func() bool { return f.service.table.find(byPid(r.pid), false) == nil })
	for _, want := range []string{"last words\n", ""} {
		stream, err := f.connect(byPid(r.pid))
		if err != nil {
			t.Fatal(err)
		}
		var got outcome
		for stream.Receive() {
			got.add(t, stream.Msg().GetEvent())
		}
		if string(got.pty) != want || got.end.GetExitCode() != 3 {
			t.Errorf("got %q %v, want %q", got.pty, got.end, want)
		}
	}
}
