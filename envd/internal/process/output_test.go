package process

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

func TestEventsComeInOrder(t *testing.T) {
	f := newFixture(t)
	got := f.start(shell("echo out; echo err >&2; exit 3")).rest()
	if string(got.stdout) != "out\n" || string(got.stderr) != "err\n" {
		t.Errorf("stdout %q, stderr %q", got.stdout, got.stderr)
	}
	if got.end.GetExitCode() != 3 || !got.end.GetExited() || got.end.GetStatus() != "exit status 3" || got.end.GetError() != "exit status 3" {
		t.Errorf("end %v", got.end)
	}
	if end := f.start(shell("true")).rest().end; end.Error != nil {
		t.Errorf("end of a success %v", end)
	}
}

func TestFastProgramLosesNothing(t *testing.T) {
	f := newFixture(t)
	for i := range 200 {
		want := fmt.Sprintf("line %d", i)
		got := f.start(&pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "printf", Args: []string{want}}}).rest()
		if string(got.stdout) != want {
			t.Fatalf("got %q, want %q", got.stdout, want)
		}
	}
}

func TestOutputIsByteExact(t *testing.T) {
	f := newFixture(t)
	script := `python3 -c '
import hashlib, os, sys
data = os.urandom(8 << 20)
os.write(2, hashlib.sha256(data).hexdigest().encode())
sys.stdout.buffer.write(data)'`
	got := f.start(shell(script)).rest()
	sum := sha256.Sum256(got.stdout)
	if len(got.stdout) != 8<<20 || hex.EncodeToString(sum[:]) != string(got.stderr) {
		t.Errorf("%d bytes of output, sha256 %x, want %s", len(got.stdout), sum, got.stderr)
	}
}

func TestWhoGoesOnWriting(t *testing.T) {
	start := time.Now()
	type writing struct {
		milliseconds, bytes int
		want                bool
	}
	for _, test := range [][]writing{
		{{0, 100, false}, {1, atOnce - 100, false}, {2, 1, true}, {11, 1, true}},
		{{0, pipeChunk, true}, {11, 100, false}, {12, pipeChunk, true}}, // after a rest it begins anew
		{{0, atOnce, false}, {20, atOnce, false}, {40, atOnce, false}},
	} {
		var flow flow
		for i, one := range test {
			if got := flow.goesOn(one.bytes, start.Add(time.Duration(one.milliseconds)*time.Millisecond)); got != one.want {
				t.Errorf("%v: at %d got %v", test, i, got)
			}
		}
	}
}

func TestSlowStarterHoldsTheProgramBack(t *testing.T) {
	f := newFixture(t)
	progress := t.TempDir() + "/progress"
	script := `i=0; while [ $i -lt 1000 ]; do printf "%%16384d" $i; i=$((i+1)); echo $i > %s; done`
	r := f.start(shell(fmt.Sprintf(script, progress)))
	// The subscriber does not read: the program must come to a stand.
	last := ""
	eventually(t, "the program stands still", func() bool {
		time.Sleep(200 * time.Millisecond)
		now := f.output(shell("cat " + progress + " 2>/dev/null"))
		still := now != "" && now == last
		last = now
		return still
	})
	if last == "1000\n" {
		t.Fatal("the program was not held back")
	}
	got := r.rest()
	if len(got.stdout) != 1000*16384 {
		t.Errorf("%d bytes of output, want %d", len(got.stdout), 1000*16384)
	}
}

func TestDescendantsThatKeepTheOutputDoNotHoldTheEnd(t *testing.T) {
	f := newFixture(t)
	began := time.Now()
	got := f.start(shell("sleep 60 & echo $!; exit 0")).rest()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	pid := strings.TrimSpace(string(got.stdout))
	if dead(pid) {
		t.Error("the background program was killed")
	}
	f.output(shell("kill " + pid))
}

func TestEndlessWriterInTheBackgroundDoesNotHoldTheEnd(t *testing.T) {
	f := newFixture(t)
	got := f.start(shell("yes & echo $! >&2; exit 7")).rest()
	if got.end.GetExitCode() != 7 {
		t.Errorf("end %v", got.end)
	}
	pid := strings.TrimSpace(string(got.stderr))
	if dead(pid) {
		t.Error("the background program was killed: its output must be read and dropped")
	}
	f.output(shell("kill " + pid))
}

func TestLateOutputOfADescendantArrives(t *testing.T) {
	f := newFixture(t)
	got := f.start(shell("(sleep 0.05; echo late) & echo early")).rest()
	if string(got.stdout) != "early\nlate\n" {
		t.Errorf("got %q", got.stdout)
	}
}

func TestDisconnectDoesNotKill(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("echo ready; read line; echo got $line"))
	r.until("ready")
	r.cancel()
	eventually(t, "the subscriber has left", func() bool {
		return f.subscribers(r.pid) == 0
	})
	stream, err := f.connect(byPid(r.pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.send(r.pid, "x\n"); err != nil {
		t.Fatal(err)
	}
	var got outcome
	for stream.Receive() {
		got.add(t, stream.Msg().GetEvent())
	}
	if string(got.stdout) != "got x\n" || got.end.GetStatus() != "exit status 0" {
		t.Errorf("got %q, %v", got.stdout, got.end)
	}
}

func TestSubscribersSeeTheSame(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("read line; seq 1 5000"))
	second, err := f.connect(byPid(r.pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.send(r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	first := r.rest()
	var got outcome
	for second.Receive() {
		got.add(t, second.Msg().GetEvent())
	}
	if len(first.stdout) != 23893 || !bytes.Equal(first.stdout, got.stdout) || got.end == nil {
		t.Errorf("%d and %d bytes, end %v", len(first.stdout), len(got.stdout), got.end)
	}
}

func TestSlowGuestIsCutOffAndTheStarterIsNot(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("read line; head -c 8388608 /dev/zero"))
	second, err := f.connect(byPid(r.pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.send(r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	if got := r.rest(); len(got.stdout) != 8388608 {
		t.Errorf("the starter got %d bytes", len(got.stdout))
	}
	size := 0
	for second.Receive() {
		size += len(second.Msg().GetEvent().GetData().GetStdout())
	}
	wantCode(t, second.Err(), connect.CodeResourceExhausted, "too slowly")
	if size == 0 || size == 8388608 {
		t.Errorf("the slow one got %d bytes", size)
	}
}

func TestTheNextSubscriberTakesOverThePace(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("echo ready; read line; head -c 8388608 /dev/zero"))
	r.until("ready")
	second, err := f.connect(byPid(r.pid))
	if err != nil {
		t.Fatal(err)
	}
	r.cancel()
	eventually(t, "the starter has left", func() bool {
		return f.subscribers(r.pid) == 1
	})
	if err := f.send(r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	size := 0
	for second.Receive() {
		size += len(second.Msg().GetEvent().GetData().GetStdout())
	}
	if second.Err() != nil || size != 8388608 {
		t.Errorf("%d bytes, %v", size, second.Err())
	}
}

func TestEndedProgramCanBeConnectedTo(t *testing.T) {
	f := newFixture(t)
	request := shell("exit 4")
	tag := "job"
	request.Tag = &tag
	r := f.start(request)
	r.rest()
	for _, selector := range []*pb.ProcessSelector{byPid(r.pid), byTag(tag)} {
		stream, err := f.connect(selector)
		if err != nil {
			t.Fatal(err)
		}
		var got outcome
		for stream.Receive() {
			got.add(t, stream.Msg().GetEvent())
		}
		if stream.Err() != nil || got.end.GetExitCode() != 4 {
			t.Errorf("%v: %v %v", selector, got.end, stream.Err())
		}
	}
	_, err := f.connect(byPid(4_000_000))
	wantCode(t, err, connect.CodeNotFound, "process with pid 4000000 not found")
}

func TestEndedProgramsAreForgotten(t *testing.T) {
	table := newTable()
	p := &process{pid: 7}
	table.add(p)
	table.retire(p)
	if table.find(byPid(7), false) != nil || table.find(byPid(7), true) != p {
		t.Fatal("an ended program is found as ended only")
	}
	for _, test := range []struct {
		age  time.Duration
		want *process
	}{{29 * time.Second, p}, {30 * time.Second, nil}} {
		table.mu.Lock()
		table.ended[0].at = time.Now().Add(-test.age)
		table.forget()
		table.mu.Unlock()
		if got := table.find(byPid(7), true); got != test.want {
			t.Errorf("after %s: got %v", test.age, got)
		}
	}
	for i := range rememberMax + 10 {
		table.retire(&process{pid: i})
	}
	if len(table.ended) != rememberMax {
		t.Errorf("%d programs are remembered", len(table.ended))
	}
}

func TestKeepAlivesFillSilence(t *testing.T) {
	f := newFixture(t)
	r := f.start(shell("read line"), "Keepalive-Ping-Interval", "1")
	if !r.stream.Receive() || r.stream.Msg().GetEvent().GetKeepalive() == nil {
		t.Fatalf("got %v, want a keep-alive", r.stream.Msg())
	}
	if err := f.send(r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	r.rest()
}

func TestListShowsWhatRuns(t *testing.T) {
	f := newFixture(t)
	request := shell("echo ready; read line")
	tag, cwd := "a tag", "/"
	request.Tag, request.Process.Cwd = &tag, &cwd
	r := f.start(request)
	r.until("ready")
	list := func() []*pb.ProcessInfo {
		answer, err := f.client.List(context.Background(), connect.NewRequest(&pb.ListRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return answer.Msg.GetProcesses()
	}
	got := list()
	if len(got) != 1 || got[0].GetPid() != r.pid || got[0].GetTag() != tag || got[0].GetConfig().GetCmd() != "/bin/sh" {
		t.Errorf("got %v", got)
	}
	if err := f.send(r.pid, "\n"); err != nil {
		t.Fatal(err)
	}
	r.rest()
	if got := list(); len(got) != 0 {
		t.Errorf("after its end: %v", got)
	}
}
