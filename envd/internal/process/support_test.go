package process

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/process/processconnect"
)

// patience bounds a test that hangs; none waits for it when all is well.
const patience = 20 * time.Second

type fixture struct {
	t       *testing.T
	service *Service
	client  processconnect.ProcessClient
	url     string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return fixtureOf(t, guest.OpenUntouched(nil))
}

func fixtureOf(t *testing.T, machine *guest.Guest) *fixture {
	t.Helper()
	sandbox, template := "sb1", "tpl1"
	env := map[string]string{"GLOBAL": "global", "BOTH": "global"}
	if _, err := machine.Init("", &guest.InitRequest{SandboxID: &sandbox, TemplateID: &template, Env: &env}); err != nil {
		t.Fatal(err)
	}
	service := NewService(machine)
	mux := http.NewServeMux()
	mux.Handle(processconnect.NewProcessHandler(service))
	server := httptest.NewUnstartedServer(mux)
	// Small socket buffers: the kernel's own would take tens of MiB before a slow reader is felt.
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		_ = conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
		return ctx
	}
	server.Start()
	server.Client().Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return conn, err
	}
	t.Cleanup(func() {
		server.CloseClientConnections()
		for _, info := range service.table.list() {
			service.table.find(byPid(info.GetPid()), false).signal(syscall.SIGKILL)
		}
		server.Close()
	})
	client := processconnect.NewProcessClient(server.Client(), server.URL, connect.WithAcceptCompression("gzip", nil, nil))
	return &fixture{t, service, client, server.URL}
}

func byPid(pid uint32) *pb.ProcessSelector {
	return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Pid{Pid: pid}}
}

func byTag(tag string) *pb.ProcessSelector {
	return &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: tag}}
}

func shell(script string) *pb.StartRequest {
	return &pb.StartRequest{Process: &pb.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}}}
}

// run is an open stream of a program whose start event has been read.
type run struct {
	t      *testing.T
	pid    uint32
	stream *connect.ServerStreamForClient[pb.StartResponse]
	cancel context.CancelFunc
}

func (f *fixture) start(request *pb.StartRequest, headers ...string) *run {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	r, err := f.tryStart(ctx, request, headers...)
	if err != nil {
		f.t.Fatal(err)
	}
	r.cancel = cancel
	return r
}

func (f *fixture) tryStart(ctx context.Context, request *pb.StartRequest, headers ...string) (*run, error) {
	message := connect.NewRequest(request)
	for i := 0; i < len(headers); i += 2 {
		message.Header().Set(headers[i], headers[i+1])
	}
	stream, err := f.client.Start(ctx, message)
	if err != nil {
		return nil, err
	}
	if !stream.Receive() {
		return nil, stream.Err()
	}
	start := stream.Msg().GetEvent().GetStart()
	if start == nil {
		f.t.Fatalf("the first event is %v", stream.Msg())
	}
	return &run{t: f.t, pid: start.GetPid(), stream: stream}, nil
}

// outcome is everything that followed the start event.
type outcome struct {
	stdout, stderr, pty []byte
	end                 *pb.ProcessEvent_EndEvent
	keepalives          int
}

func (o *outcome) add(t *testing.T, event *pb.ProcessEvent) {
	t.Helper()
	if o.end != nil {
		t.Fatalf("an event after the end: %v", event)
	}
	switch {
	case event.GetEnd() != nil:
		o.end = event.GetEnd()
	case event.GetKeepalive() != nil:
		o.keepalives++
	case event.GetData() != nil:
		o.stdout = append(o.stdout, event.GetData().GetStdout()...)
		o.stderr = append(o.stderr, event.GetData().GetStderr()...)
		o.pty = append(o.pty, event.GetData().GetPty()...)
	default:
		t.Fatalf("unexpected event %v", event)
	}
}

func (r *run) rest() outcome {
	r.t.Helper()
	var result outcome
	for r.stream.Receive() {
		result.add(r.t, r.stream.Msg().GetEvent())
	}
	if err := r.stream.Err(); err != nil {
		r.t.Fatal(err)
	}
	if result.end == nil {
		r.t.Fatal("the stream closed without an end event")
	}
	return result
}

// until reads output up to text.
func (r *run) until(text string) {
	r.t.Helper()
	var seen outcome
	for !bytes.Contains(append(seen.stdout, seen.pty...), []byte(text)) {
		if !r.stream.Receive() {
			r.t.Fatalf("the stream ended before %q: %v %v", text, seen, r.stream.Err())
		}
		seen.add(r.t, r.stream.Msg().GetEvent())
	}
}

func (f *fixture) output(request *pb.StartRequest, headers ...string) string {
	f.t.Helper()
	return string(f.start(request, headers...).rest().stdout)
}

func (f *fixture) connect(selector *pb.ProcessSelector) (*connect.ServerStreamForClient[pb.ConnectResponse], error) {
	ctx, cancel := context.WithCancel(context.Background())
	f.t.Cleanup(cancel)
	stream, err := f.client.Connect(ctx, connect.NewRequest(&pb.ConnectRequest{Process: selector}))
	if err != nil {
		return nil, err
	}
	if !stream.Receive() {
		return nil, stream.Err()
	}
	if stream.Msg().GetEvent().GetStart() == nil {
		f.t.Fatalf("the first event is %v", stream.Msg())
	}
	return stream, nil
}

func (f *fixture) signal(pid uint32, signal pb.Signal) error {
	_, err := f.client.SendSignal(context.Background(),
		connect.NewRequest(&pb.SendSignalRequest{Process: byPid(pid), Signal: signal}))
	return err
}

func (f *fixture) send(pid uint32, text string) error {
	input := &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte(text)}}
	_, err := f.client.SendInput(context.Background(),
		connect.NewRequest(&pb.SendInputRequest{Process: byPid(pid), Input: input}))
	return err
}

func wantCode(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	var failure *connect.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got %v, want %s", err, code)
	}
	if failure.Code() != code || !strings.Contains(failure.Message(), text) {
		t.Fatalf("got %q, want %s %q", err, code, text)
	}
}

// eventually waits for what the kernel does in its own time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// dead tells whether a process is gone or a zombie.
func dead(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return true
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "Z")
}

func (f *fixture) subscribers(pid uint32) int {
	h := &f.service.table.find(byPid(pid), false).hub
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs)
}
