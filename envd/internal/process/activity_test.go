package process

import (
	"testing"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

func TestActivity(t *testing.T) {
	f := newFixture(t)
	if got := f.service.Activity(); got.Command != nil || got.Terminal != nil {
		t.Errorf("before anything ran: %v", got)
	}
	r := f.start(shell("read line"))
	if got := f.service.Activity(); got.Command == nil || *got.Command != 0 || got.Terminal != nil {
		t.Errorf("while a program runs: %v", got)
	}
	if err := f.signal(r.pid, pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	r.rest()
	if got := f.service.Activity(); got.Command == nil || *got.Command <= 0 {
		t.Errorf("after its end: %v", got)
	}
	request := shell("exec sleep 60")
	request.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: 80, Rows: 25}}
	r = f.start(request)
	if got := f.service.Activity(); got.Terminal == nil || *got.Terminal != 0 {
		t.Errorf("with a terminal attached: %v", got)
	}
	r.cancel()
	eventually(t, "the terminal is left", func() bool { got := f.service.Activity(); return *got.Terminal > 0 && *got.Command == 0 })
}
