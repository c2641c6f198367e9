package httpd

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	fspb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem/filesystemconnect"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/process/processconnect"
)

// tokenTransport adds what every client of envd sends.
type tokenTransport string

func (t tokenTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("X-Access-Token", string(t))
	return http.DefaultTransport.RoundTrip(request)
}

// eachCodec runs a test with clients of both forms of the messages.
func eachCodec(t *testing.T, test func(*testing.T, *fixture, processconnect.ProcessClient, filesystemconnect.FilesystemClient)) {
	t.Helper()
	for name, options := range map[string][]connect.ClientOption{
		"binary": nil, "json": {connect.WithProtoJSON()},
	} {
		t.Run(name, func(t *testing.T) {
			f := ready(t)
			client := &http.Client{Transport: tokenTransport("secret")}
			test(t, f, processconnect.NewProcessClient(client, f.url, options...),
				filesystemconnect.NewFilesystemClient(client, f.url, options...))
		})
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestProcessesInBothCodecs(t *testing.T) {
	eachCodec(t, func(t *testing.T, _ *fixture, client processconnect.ProcessClient, _ filesystemconnect.FilesystemClient) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		tag := "the tag"
		started := must[*connect.ServerStreamForClient[pb.StartResponse]](t)(client.Start(ctx, connect.NewRequest(&pb.StartRequest{
			Process: &pb.ProcessConfig{
				Cmd: "/bin/sh", Args: []string{"-c", `cat; printf '\377\000' >&2; exit 3`}, Envs: map[string]string{"A": "ä"},
			},
			Tag: &tag,
		})))
		if !started.Receive() || started.Msg().GetEvent().GetStart().GetPid() == 0 {
			t.Fatal(started.Msg(), started.Err())
		}
		pid := started.Msg().GetEvent().GetStart().GetPid()
		selector := &pb.ProcessSelector{Selector: &pb.ProcessSelector_Tag{Tag: tag}}
		list := must[*connect.Response[pb.ListResponse]](t)(client.List(ctx, connect.NewRequest(&pb.ListRequest{}))).Msg.GetProcesses()
		if len(list) != 1 || list[0].GetPid() != pid || list[0].GetTag() != tag || list[0].GetConfig().GetEnvs()["A"] != "ä" {
			t.Errorf("list: %v", list)
		}
		must[*connect.Response[pb.SendInputResponse]](t)(client.SendInput(ctx, connect.NewRequest(&pb.SendInputRequest{
			Process: selector, Input: &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte("\xfe one ")}},
		})))
		input := client.StreamInput(ctx)
		for _, message := range []*pb.StreamInputRequest{
			{Event: &pb.StreamInputRequest_Start{Start: &pb.StreamInputRequest_StartEvent{Process: selector}}},
			{Event: &pb.StreamInputRequest_Data{Data: &pb.StreamInputRequest_DataEvent{
				Input: &pb.ProcessInput{Input: &pb.ProcessInput_Stdin{Stdin: []byte("two")}},
			}}},
		} {
			if err := input.Send(message); err != nil {
				t.Fatal(err)
			}
		}
		must[*connect.Response[pb.StreamInputResponse]](t)(input.CloseAndReceive())
		must[*connect.Response[pb.CloseStdinResponse]](t)(client.CloseStdin(ctx, connect.NewRequest(&pb.CloseStdinRequest{Process: selector})))
		var stdout, stderr []byte
		var end *pb.ProcessEvent_EndEvent
		for started.Receive() {
			stdout = append(stdout, started.Msg().GetEvent().GetData().GetStdout()...)
			stderr = append(stderr, started.Msg().GetEvent().GetData().GetStderr()...)
			end = started.Msg().GetEvent().GetEnd()
		}
		if string(stdout) != "\xfe one two" || string(stderr) != "\xff\x00" || end.GetExitCode() != 3 || started.Err() != nil {
			t.Errorf("%q %q %v %v", stdout, stderr, end, started.Err())
		}
		again := must[*connect.ServerStreamForClient[pb.ConnectResponse]](t)(client.Connect(ctx, connect.NewRequest(&pb.ConnectRequest{Process: selector})))
		var events []string
		for again.Receive() {
			switch event := again.Msg().GetEvent(); {
			case event.GetStart() != nil:
				events = append(events, "start")
			case event.GetEnd() != nil:
				events = append(events, event.GetEnd().GetStatus())
			}
		}
		if !slices.Equal(events, []string{"start", "exit status 3"}) {
			t.Errorf("connected to the ended program: %v %v", events, again.Err())
		}
		_, err := client.SendSignal(ctx, connect.NewRequest(&pb.SendSignalRequest{Process: selector, Signal: pb.Signal_SIGNAL_SIGKILL}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("a signal to it: %v", err)
		}
	})
}

func TestTerminalsInBothCodecs(t *testing.T) {
	eachCodec(t, func(t *testing.T, _ *fixture, client processconnect.ProcessClient, _ filesystemconnect.FilesystemClient) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		started := must[*connect.ServerStreamForClient[pb.StartResponse]](t)(client.Start(ctx, connect.NewRequest(&pb.StartRequest{
			Process: &pb.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", "stty -echo; echo ready; read line; stty size"}},
			Pty:     &pb.PTY{Size: &pb.PTY_Size{Cols: 80, Rows: 24}},
		})))
		var output strings.Builder
		var pid uint32
		for started.Receive() {
			event := started.Msg().GetEvent()
			output.Write(event.GetData().GetPty())
			if event.GetStart() != nil {
				pid = event.GetStart().GetPid()
			}
			if output.String() == "ready\r\n" {
				selector := &pb.ProcessSelector{Selector: &pb.ProcessSelector_Pid{Pid: pid}}
				must[*connect.Response[pb.UpdateResponse]](t)(client.Update(ctx, connect.NewRequest(&pb.UpdateRequest{
					Process: selector, Pty: &pb.PTY{Size: &pb.PTY_Size{Cols: 100, Rows: 30}},
				})))
				must[*connect.Response[pb.SendInputResponse]](t)(client.SendInput(ctx, connect.NewRequest(&pb.SendInputRequest{
					Process: selector, Input: &pb.ProcessInput{Input: &pb.ProcessInput_Pty{Pty: []byte("\n")}},
				})))
			}
		}
		if output.String() != "ready\r\n30 100\r\n" {
			t.Errorf("got %q %v", output.String(), started.Err())
		}
	})
}

func TestFilesInBothCodecs(t *testing.T) {
	eachCodec(t, func(t *testing.T, _ *fixture, _ processconnect.ProcessClient, client filesystemconnect.FilesystemClient) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		dir := t.TempDir() + "/ä"
		made := must[*connect.Response[fspb.MakeDirResponse]](t)(client.MakeDir(ctx, connect.NewRequest(&fspb.MakeDirRequest{Path: dir})))
		if made.Msg.GetEntry().GetName() != "ä" || made.Msg.GetEntry().GetModifiedTime().GetSeconds() == 0 {
			t.Errorf("made %v", made.Msg)
		}
		stream := must[*connect.ServerStreamForClient[fspb.WatchDirResponse]](t)(client.WatchDir(ctx, connect.NewRequest(&fspb.WatchDirRequest{
			Path: dir, IncludeEntry: true,
		})))
		if !stream.Receive() || stream.Msg().GetStart() == nil {
			t.Fatal(stream.Msg(), stream.Err())
		}
		if err := os.WriteFile(dir+"/a", []byte("12345"), 0o644); err != nil {
			t.Fatal(err)
		}
		if !stream.Receive() || stream.Msg().GetFilesystem().GetType() != fspb.EventType_EVENT_TYPE_CREATE ||
			stream.Msg().GetFilesystem().GetEntry().GetPath() != dir+"/a" {
			t.Errorf("watched %v %v", stream.Msg(), stream.Err())
		}
		must[*connect.Response[fspb.MoveResponse]](t)(client.Move(ctx, connect.NewRequest(&fspb.MoveRequest{
			Source: dir + "/a", Destination: dir + "/d/b",
		})))
		list := must[*connect.Response[fspb.ListDirResponse]](t)(client.ListDir(ctx, connect.NewRequest(&fspb.ListDirRequest{
			Path: dir, Depth: 2,
		}))).Msg.GetEntries()
		if len(list) != 2 || list[1].GetPath() != dir+"/d/b" || list[1].GetSize() != 5 || list[1].GetMode() != 0o644 {
			t.Errorf("listed %v", list)
		}
		must[*connect.Response[fspb.RemoveResponse]](t)(client.Remove(ctx, connect.NewRequest(&fspb.RemoveRequest{Path: dir})))
		_, err := client.Stat(ctx, connect.NewRequest(&fspb.StatRequest{Path: dir}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("after its removal: %v", err)
		}
	})
}

// A new file's events are these three, and they are there as soon as the upload has been answered.
func TestUploadIsThreeEvents(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the owner, which is one of the events, needs root")
	}
	eachCodec(t, func(t *testing.T, f *fixture, _ processconnect.ProcessClient, client filesystemconnect.FilesystemClient) {
		ctx, dir := context.Background(), t.TempDir()
		id := must[*connect.Response[fspb.CreateWatcherResponse]](t)(client.CreateWatcher(ctx, connect.NewRequest(&fspb.CreateWatcherRequest{
			Path: dir,
		}))).Msg.GetWatcherId()
		for _, content := range []string{"x", strings.Repeat("x", 300_000)} {
			for _, name := range []string{"a", "b", "c"} {
				response := f.do("POST", "/files?path="+dir+"/"+name, content,
					"X-Access-Token", "secret", "Content-Type", "application/octet-stream", "X-Metadata-Key", "value")
				if response.StatusCode != 200 {
					t.Fatal(response.Status)
				}
				answer := must[*connect.Response[fspb.GetWatcherEventsResponse]](t)(client.GetWatcherEvents(ctx,
					connect.NewRequest(&fspb.GetWatcherEventsRequest{WatcherId: id})))
				var got []string
				for _, event := range answer.Msg.GetEvents() {
					got = append(got, event.GetType().String()+" "+event.GetName())
				}
				want := []string{"EVENT_TYPE_CREATE " + name, "EVENT_TYPE_CHMOD " + name, "EVENT_TYPE_WRITE " + name}
				if !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				if err := os.Remove(dir + "/" + name); err != nil {
					t.Fatal(err)
				}
				must[*connect.Response[fspb.GetWatcherEventsResponse]](t)(client.GetWatcherEvents(ctx,
					connect.NewRequest(&fspb.GetWatcherEventsRequest{WatcherId: id})))
			}
		}
		must[*connect.Response[fspb.RemoveWatcherResponse]](t)(client.RemoveWatcher(ctx, connect.NewRequest(&fspb.RemoveWatcherRequest{WatcherId: id})))
	})
}
