package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/guest/guesttest"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

func TestKillReachesTheWholeGroup(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("sleep 60 & echo $! ready; sleep 60"))
	child := r.word()
	if err := f.signal(r.pid, pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	if syscall.Kill(int(r.pid), 0) != syscall.ESRCH {
		t.Error("the leader is still there when SendSignal returns")
	}
	end := r.rest().end
	if end.GetExitCode() != -1 || end.GetExited() || end.GetStatus() != "signal: killed" || end.GetError() != "signal: killed" {
		t.Errorf("end %v", end)
	}
	eventually(t, "the child is dead", func() bool { return dead(child) })
	wantCode(t, f.signal(r.pid, pb.Signal_SIGNAL_SIGKILL), connect.CodeNotFound, fmt.Sprintf("pid %d", r.pid))
}

// word reads the first word of the output.
func (r *run) word() string {
	r.t.Helper()
	var seen outcome
	for !strings.Contains(string(seen.stdout), "\n") {
		if !r.stream.Receive() {
			r.t.Fatal(r.stream.Err())
		}
		seen.add(r.t, r.stream.Msg().GetEvent())
	}
	return strings.Fields(string(seen.stdout))[0]
}

func TestTermIsDelivered(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"))
	r.until("ready")
	if err := f.signal(r.pid, pb.Signal_SIGNAL_SIGTERM); err != nil {
		t.Fatal(err)
	}
	got := r.rest()
	if !strings.HasSuffix(string(got.stdout), "bye\n") || got.end.GetExitCode() != 5 {
		t.Errorf("got %q %v", got.stdout, got.end)
	}
	wantCode(t, f.signal(r.pid, pb.Signal_SIGNAL_UNSPECIFIED), connect.CodeInvalidArgument, "invalid signal")
}

func TestDeadlineKillsTheGroup(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	message := shell("sleep 60 & echo $!; sleep 60")
	// The header by hand, not the client's own deadline: the answer is what is tested.
	r := f.start(message, "Connect-Timeout-Ms", "700")
	watcher, err := f.connect(byPid(r.pid))
	if err != nil {
		t.Fatal(err)
	}
	child := r.word()
	for r.stream.Receive() {
		t.Errorf("unexpected event %v", r.stream.Msg())
	}
	wantCode(t, r.stream.Err(), connect.CodeDeadlineExceeded, "")
	if syscall.Kill(int(r.pid), 0) != syscall.ESRCH {
		t.Error("the leader is still there when Start returns")
	}
	eventually(t, "the child is dead", func() bool { return dead(child) || ctx.Err() != nil })
	var got outcome
	for watcher.Receive() {
		got.add(t, watcher.Msg().GetEvent())
	}
	if got.end.GetStatus() != "signal: killed" || !strings.HasPrefix(got.end.GetError(), "deadline_exceeded") {
		t.Errorf("another subscriber's end: %v", got.end)
	}
}

func TestDeadlineHoldsAfterTheClientHasLeft(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("echo ready; exec sleep 60"), "Connect-Timeout-Ms", "600")
	r.until("ready")
	r.cancel()
	eventually(t, "the program is killed", func() bool { return f.service.table.find(byPid(r.pid), false) == nil })
}

func TestKillReachesWhatLeftTheGroup(t *testing.T) {
	cgroups, root := guesttest.Cgroups(t)
	f := fixtureOf(t, guest.OpenUntouched(cgroups))
	r := f.start(shell("setsid sh -c 'setsid sleep 60 & echo $!; wait' & wait"))
	grandchild := r.word()
	if err := f.signal(r.pid, pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild in its own session is dead", func() bool { return dead(grandchild) })
	r.rest()
	// The dying may outlast the end event; then the end of the next program sweeps it.
	eventually(t, "its cgroup is gone", func() bool {
		f.output(shell(":"))
		leaves, _ := filepath.Glob(root + "/user/p*")
		return len(leaves) == 0
	})
}

func TestInput(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("cat"))
	for _, text := range []string{"one ", "two ", "\x00\xff"} {
		if err := f.send(r.pid, text); err != nil {
			t.Fatal(err)
		}
	}
	closeStdin := func() error {
		_, err := f.client.CloseStdin(context.Background(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPid(r.pid)}))
		return err
	}
	if err := closeStdin(); err != nil {
		t.Fatal(err)
	}
	if got := r.rest(); string(got.stdout) != "one two \x00\xff" {
		t.Errorf("got %q", got.stdout)
	}
	wantCode(t, closeStdin(), connect.CodeNotFound, "")
}

func TestInputIsRefusedWhenThereIsNone(t *testing.T) {
	f := newFixture(t)
	const text = "error writing to stdin: stdin not enabled or closed"
	without := shell("echo ready; exec sleep 60")
	no := false
	without.Stdin = &no
	r := f.start(without)
	wantCode(t, f.send(r.pid, "x"), connect.CodeInternal, text)

	closed := f.start(shell("exec sleep 60"))
	for range 2 {
		_, err := f.client.CloseStdin(context.Background(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPid(closed.pid)}))
		if err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, f.send(closed.pid, "x"), connect.CodeInternal, text)
	wantCode(t, f.send(4_000_000, "x"), connect.CodeNotFound, "")
}

func TestStdinOffIsAtItsEnd(t *testing.T) {
	f := newFixture(t)
	request := shell("cat; echo end")
	no := false
	request.Stdin = &no
	if got := f.output(request); got != "end\n" {
		t.Errorf("got %q", got)
	}
}

func TestInputToABusyProgramEndsWithItsRequest(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("echo ready; read line; cat | wc -c"))
	r.until("ready")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: make([]byte, 1<<20)}}
	other := f.start(shell("exec sleep 60"))
	_, err := f.client.SendInput(ctx, connect.NewRequest(&pb.SendInputRequest{Process: byPid(other.pid), Input: input}))
	wantCode(t, err, connect.CodeDeadlineExceeded, "")
	// The next one is not held up by it.
	ctx, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err = f.client.SendInput(ctx, connect.NewRequest(&pb.SendInputRequest{Process: byPid(other.pid), Input: input}))
	wantCode(t, err, connect.CodeDeadlineExceeded, "")
}

func TestStreamInput(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("head -c 6"))
	stream := f.client.StreamInput(context.Background())
	messages := []*pb.StreamInputRequest{
		{Event: &pb.StreamInputRequest_Start{Start: &pb.StreamInputRequest_StartEvent{Process: byPid(r.pid)}}},
		{Event: &pb.StreamInputRequest_Keepalive{Keepalive: &pb.StreamInputRequest_KeepAlive{}}},
	}
	for _, text := range []string{"abc", "def"} {
		input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte(text)}}
		messages = append(messages, &pb.StreamInputRequest{
			Event: &pb.StreamInputRequest_Data{Data: &pb.StreamInputRequest_DataEvent{Input: input}},
		})
	}
	for _, message := range messages {
		if err := stream.Send(message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndReceive(); err != nil {
		t.Fatal(err)
	}
	if got := r.rest(); string(got.stdout) != "abcdef" {
		t.Errorf("got %q", got.stdout)
	}
}

func TestTerminal(t *testing.T) {
	f := newFixture(t)
	request := shell("stty -echo; tty; stty size; echo ready; read line; stty size; echo got $line; exec sleep 60")
	request.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: 100, Rows: 30}}
	r := f.start(request)
	r.until("30 100\r\nready\r\n")
	resized := &pb.PTY{Size: &pb.PTY_Size{Cols: 120, Rows: 40}}
	if _, err := f.client.Update(context.Background(), connect.NewRequest(&pb.UpdateRequest{Process: byPid(r.pid), Pty: resized})); err != nil {
		t.Fatal(err)
	}
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte("hello\n")}}
	if _, err := f.client.SendInput(context.Background(), connect.NewRequest(&pb.SendInputRequest{Process: byPid(r.pid), Input: input})); err != nil {
		t.Fatal(err)
	}
	r.until("40 120\r\ngot hello\r\n")
	_, err := f.client.CloseStdin(context.Background(), connect.NewRequest(&pb.CloseStdinRequest{Process: byPid(r.pid)}))
	wantCode(t, err, connect.CodeUnknown, "")
	if err := f.signal(r.pid, pb.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := r.rest(); got.end.GetStatus() != "signal: killed" {
		t.Errorf("end %v", got.end)
	}
}

func TestTerminalLosesNothingAtItsEnd(t *testing.T) {
	f := newFixture(t)
	request := shell("stty -onlcr; seq 1 20000")
	request.Pty = &pb.PTY{Size: &pb.PTY_Size{Cols: 80, Rows: 24}}
	if got := f.start(request).rest(); len(got.pty) != 108894 {
		t.Errorf("%d bytes", len(got.pty))
	}
}

func TestEnvironment(t *testing.T) {
	f := newFixture(t)
	request := shell("env")
	request.Process.Envs = map[string]string{"BOTH": "request", "OWN": "a=b"}
	got := "\n" + f.output(request)
	for _, line := range []string{
		"GLOBAL=global", "BOTH=request", "OWN=a=b", "E2B_SANDBOX=true", "E2B_SANDBOX_ID=sb1", "E2B_TEMPLATE_ID=tpl1",
		"WRENN_SANDBOX_ID=sb1",
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("no %s in%s", line, got)
		}
	}
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME"} {
		if !strings.Contains(got, "\n"+name+"=") {
			t.Errorf("no %s in%s", name, got)
		}
	}
	request.Process.Envs = map[string]string{"A=B": "x"}
	_, err := f.tryStart(context.Background(), request)
	wantCode(t, err, connect.CodeInvalidArgument, "environment variable")
}

func TestWorkdir(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	request := shell("pwd")
	request.Process.Cwd = &dir
	if got := f.output(request); got != dir+"\n" {
		t.Errorf("got %q", got)
	}
	missing := dir + "/nope"
	request.Process.Cwd = &missing
	_, err := f.tryStart(context.Background(), request)
	wantCode(t, err, connect.CodeInvalidArgument, "cwd '"+missing+"' does not exist")
}

func TestCannotStart(t *testing.T) {
	f := newFixture(t)
	script := t.TempDir() + "/plain"
	if err := os.WriteFile(script, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for cmd, text := range map[string]string{
		"/no/such": "no such file", "nosuchcommand": "not found in $PATH", script: "permission denied",
		"/": "is a directory", "": "no command",
	} {
		_, err := f.tryStart(context.Background(), &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: cmd}})
		wantCode(t, err, connect.CodeInvalidArgument, text)
	}
	_, err := f.tryStart(context.Background(), &pb.StartRequest{})
	wantCode(t, err, connect.CodeInvalidArgument, "no process")
}

func TestUsers(t *testing.T) {
	f := newFixture(t)
	// base64 of "nosuchuser:"
	_, err := f.tryStart(context.Background(), shell("id"), "Authorization", "Basic bm9zdWNodXNlcjo=")
	wantCode(t, err, connect.CodeUnauthenticated, "invalid username: 'nosuchuser'")
	_, err = f.tryStart(context.Background(), shell("id"), "Authorization", "Basic %%%")
	wantCode(t, err, connect.CodeUnauthenticated, "Basic")
	if os.Geteuid() != 0 {
		t.Skip("changing the user needs root")
	}
	// base64 of "nobody:"
	got := f.output(shell("id -un; id -Gn; echo $USER $LOGNAME"), "Authorization", "Basic bm9ib2R5Og==")
	if got != "nobody\nnogroup\nnobody nobody\n" {
		t.Errorf("got %q", got)
	}
}

func TestOwnSession(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("ps -o pid=,pgid=,sid= -p $$"))
	want := strings.Join([]string{fmt.Sprint(r.pid), fmt.Sprint(r.pid), fmt.Sprint(r.pid)}, " ")
	if got := strings.Join(strings.Fields(string(r.rest().stdout)), " "); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
