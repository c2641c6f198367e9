package filesystem

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem/filesystemconnect"
)

func serve(t *testing.T, s *Service) filesystemconnect.FilesystemClient {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(filesystemconnect.NewFilesystemHandler(s, connect.WithInterceptors(Legacy())))
	server := httptest.NewServer(mux)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return filesystemconnect.NewFilesystemClient(server.Client(), server.URL)
}

func (s *Service) createWatcher(t *testing.T, request *pb.CreateWatcherRequest) string {
	t.Helper()
	answer, err := s.CreateWatcher(ctx, connect.NewRequest(request))
	must(t, err)
	return answer.Msg.GetWatcherId()
}

func (s *Service) poll(id string) ([]*pb.FilesystemEvent, error) {
	answer, err := s.GetWatcherEvents(ctx, connect.NewRequest(&pb.GetWatcherEventsRequest{WatcherId: id}))
	if err != nil {
		return nil, err
	}
	return answer.Msg.GetEvents(), nil
}

func (s *Service) removeWatcher(id string) error {
	_, err := s.RemoveWatcher(ctx, connect.NewRequest(&pb.RemoveWatcherRequest{WatcherId: id}))
	return err
}

func lines(events []*pb.FilesystemEvent) (lines []string) {
	for _, event := range events {
		lines = append(lines, strings.TrimPrefix(event.GetType().String(), "EVENT_TYPE_")+" "+event.GetName())
	}
	return lines
}

func TestPoller(t *testing.T) {
	s, dir := newService(t)
	id := s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir, Recursive: true})
	must(t, os.WriteFile(dir+"/a", []byte("x"), 0o644))
	events, err := s.poll(id)
	must(t, err)
	if got := lines(events); !slices.Equal(got, []string{"CREATE a", "WRITE a"}) || events[0].Entry != nil {
		t.Errorf("got %v", events)
	}
	if events, err := s.poll(id); err != nil || len(events) != 0 {
		t.Errorf("again: %v %v", events, err)
	}
	must(t, s.removeWatcher(id))
	_, err = s.poll(id)
	wantCode(t, err, connect.CodeNotFound, "watcher with id '"+id+"' not found")
	wantCode(t, s.removeWatcher(id), connect.CodeNotFound, id)
	if len(s.watchers) != 0 {
		t.Errorf("%d places are taken", len(s.watchers))
	}
}

func TestPollerWithEntries(t *testing.T) {
	s, dir := newService(t)
	id := s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir, IncludeEntry: true})
	must(t, os.WriteFile(dir+"/a", []byte("123"), 0o640))
	must(t, os.Chmod(dir+"/a", 0o600))
	events, err := s.poll(id)
	must(t, err)
	must(t, os.Remove(dir+"/a"))
	gone, err := s.poll(id)
	must(t, err)
	if got := lines(append(events, gone...)); !slices.Equal(got, []string{"CREATE a", "WRITE a", "CHMOD a", "REMOVE a"}) {
		t.Fatalf("got %v", got)
	}
	for i, event := range events {
		entry := event.GetEntry()
		if entry.GetPath() != dir+"/a" || entry.GetType() != pb.FileType_FILE_TYPE_FILE || entry.GetOwner() == "" ||
			i > 0 && entry.GetSize() != 3 {
			t.Errorf("%s: %v", event.GetType(), entry)
		}
	}
	if gone[0].Entry != nil {
		t.Errorf("an entry of what is gone: %v", gone)
	}
}

func TestWatchRefusals(t *testing.T) {
	s, dir := newService(t)
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	for path, want := range map[string]struct {
		code connect.Code
		text string
	}{
		dir + "/nope": {connect.CodeNotFound, "file not found: " + dir + "/nope"},
		dir + "/file": {connect.CodeInvalidArgument, "path is not a directory: " + dir + "/file"},
		"a\x00":       {connect.CodeInvalidArgument, "NUL"},
	} {
		_, err := s.CreateWatcher(ctx, connect.NewRequest(&pb.CreateWatcherRequest{Path: path}))
		wantCode(t, err, want.code, want.text)
		stream, err := serve(t, s).WatchDir(ctx, connect.NewRequest(&pb.WatchDirRequest{Path: path}))
		must(t, err)
		if stream.Receive() {
			t.Errorf("%s: got %v", path, stream.Msg())
		}
		wantCode(t, stream.Err(), want.code, want.text)
	}
	if len(s.watchers) != 0 {
		t.Errorf("%d places are taken", len(s.watchers))
	}
}

func TestWatchersAreBounded(t *testing.T) {
	s, dir := newService(t)
	var ids []string
	for range maxWatchers {
		ids = append(ids, s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir}))
	}
	_, err := s.CreateWatcher(ctx, connect.NewRequest(&pb.CreateWatcherRequest{Path: dir}))
	wantCode(t, err, connect.CodeResourceExhausted, "64 watchers are open")
	stream, err := serve(t, s).WatchDir(ctx, connect.NewRequest(&pb.WatchDirRequest{Path: dir}))
	must(t, err)
	stream.Receive()
	wantCode(t, stream.Err(), connect.CodeResourceExhausted, "64 watchers are open")
	must(t, s.removeWatcher(ids[0]))
	must(t, s.removeWatcher(s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir})))
	for _, id := range ids[1:] {
		must(t, s.removeWatcher(id))
	}
}

func TestIdlePollersExpire(t *testing.T) {
	s, dir := newService(t)
	s.pollers.idle = 50 * time.Millisecond
	id := s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir})
	s.watchers <- struct{}{} // waits for nobody until the bound is reached
	for range maxWatchers - 1 {
		s.watchers <- struct{}{} // the last one only when the expired watcher has given its place back
	}
	_, err := s.poll(id)
	wantCode(t, err, connect.CodeNotFound, id)
}

// fall makes more events below dir than a watcher holds.
func fall(t *testing.T, dir string) {
	t.Helper()
	long := strings.Repeat("n", 200)
	for i := range 3000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/%s%d", dir, long, i), nil, 0o644))
	}
}

func TestPollerThatFallsBehindIsToldAndGoesOn(t *testing.T) {
	s, dir := newService(t)
	id := s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir, Recursive: true})
	fall(t, dir)
	_, err := s.poll(id)
	wantCode(t, err, connect.CodeResourceExhausted, "events were lost")
	must(t, os.WriteFile(dir+"/next", nil, 0o644))
	events, err := s.poll(id)
	must(t, err)
	if got := lines(events); !slices.Equal(got, []string{"CREATE next"}) {
		t.Errorf("afterwards: %v", got)
	}
	fall(t, dir)
	must(t, os.RemoveAll(dir))
	for range 2 {
		_, err = s.poll(id)
		wantCode(t, err, connect.CodeNotFound, dir)
	}
	must(t, s.removeWatcher(id))
}

func TestWatchDir(t *testing.T) {
	s, dir := newService(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request := connect.NewRequest(&pb.WatchDirRequest{Path: dir, IncludeEntry: true})
	request.Header().Set("Keepalive-Ping-Interval", "1")
	stream, err := serve(t, s).WatchDir(ctx, request)
	must(t, err)
	receive := func() *pb.WatchDirResponse {
		t.Helper()
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream.Msg()
	}
	if got := receive(); got.GetStart() == nil {
		t.Fatalf("the first message is %v", got)
	}
	must(t, os.Mkdir(dir+"/d", 0o755))
	if got := receive().GetFilesystem(); got.GetName() != "d" || got.GetType() != pb.EventType_EVENT_TYPE_CREATE ||
		got.GetEntry().GetType() != pb.FileType_FILE_TYPE_DIRECTORY {
		t.Errorf("got %v", got)
	}
	if got := receive(); got.GetKeepalive() == nil {
		t.Errorf("got %v, want a keep-alive", got)
	}
	must(t, os.Remove(dir+"/d"))
	if got := receive().GetFilesystem(); got.GetName() != "d" || got.GetType() != pb.EventType_EVENT_TYPE_REMOVE {
		t.Errorf("got %v", got)
	}
	cancel()
	for range maxWatchers { // the last one only when the stream has given its place back
		s.watchers <- struct{}{}
	}
}

func TestWatchDirEndsAtItsDeadline(t *testing.T) {
	s, dir := newService(t)
	request := connect.NewRequest(&pb.WatchDirRequest{Path: dir})
	request.Header().Set("Connect-Timeout-Ms", "100") // by hand: the answer is what is tested
	stream, err := serve(t, s).WatchDir(context.Background(), request)
	must(t, err)
	for stream.Receive() {
	}
	wantCode(t, stream.Err(), connect.CodeDeadlineExceeded, "")
}

func TestNetworkMountsAreRefused(t *testing.T) {
	dir := t.TempDir()
	mountFuse(t, dir)
	s, _ := newService(t)
	_, err := s.CreateWatcher(ctx, connect.NewRequest(&pb.CreateWatcherRequest{Path: dir}))
	wantCode(t, err, connect.CodeInvalidArgument, "allow_network_mounts")
	id := s.createWatcher(t, &pb.CreateWatcherRequest{Path: dir, AllowNetworkMounts: true})
	must(t, s.removeWatcher(id))
}

// mountFuse mounts an empty directory that this test serves (linux/fuse.h).
func mountFuse(t *testing.T, dir string) {
	t.Helper()
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no /dev/fuse: %v", err)
	}
	if err := unix.Mount("test", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)); err != nil {
		_ = unix.Close(device)
		t.Skipf("mounting needs root: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1<<17)
		for {
			n, err := unix.Read(device, buffer)
			if err != nil { // ENODEV: unmounted
				return
			}
			if answer := fuseAnswer(buffer[:n]); answer != nil {
				_, _ = unix.Write(device, answer)
			}
		}
	}()
	t.Cleanup(func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		<-done
		_ = unix.Close(device)
	})
}

func fuseAnswer(request []byte) []byte {
	var body []byte
	failure := int32(0)
	switch opcode := binary.NativeEndian.Uint32(request[4:]); opcode {
	case 2: // FORGET
		return nil
	case 26: // INIT: version 7.31
		body = make([]byte, 64)
		binary.NativeEndian.PutUint32(body, 7)
		binary.NativeEndian.PutUint32(body[4:], 31)
	case 3: // GETATTR: a directory
		body = make([]byte, 104)
		binary.NativeEndian.PutUint64(body[16:], 1)
		binary.NativeEndian.PutUint32(body[16+60:], unix.S_IFDIR|0o755)
	case 17: // STATFS
		body = make([]byte, 80)
	default:
		failure = -int32(unix.ENOSYS)
	}
	answer := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	answer = binary.NativeEndian.AppendUint32(answer, uint32(failure))
	return append(append(answer, request[8:16]...), body...)
}

func TestLegacyClientsGetLittle(t *testing.T) {
	s, dir := newService(t)
	must(t, os.WriteFile(dir+"/a", []byte("x"), 0o644))
	client := serve(t, s)
	for agent, legacy := range map[string]bool{"connect-python": true, "connectrpc/0.12.1": false, "": false} {
		stat := connect.NewRequest(&pb.StatRequest{Path: dir + "/a"})
		list := connect.NewRequest(&pb.ListDirRequest{Path: dir})
		stat.Header().Set("User-Agent", agent)
		list.Header().Set("User-Agent", agent)
		one, err := client.Stat(ctx, stat)
		must(t, err)
		many, err := client.ListDir(ctx, list)
		must(t, err)
		for header, entry := range map[*http.Header]*pb.EntryInfo{
			ref(one.Header()): one.Msg.GetEntry(), ref(many.Header()): many.Msg.GetEntries()[0],
		} {
			if entry.GetName() != "a" || entry.GetPath() != dir+"/a" || entry.GetType() != pb.FileType_FILE_TYPE_FILE {
				t.Errorf("%q: %v", agent, entry)
			}
			if told := header.Get("X-E2B-Legacy-SDK") == "true"; told != legacy || (entry.GetOwner() == "") != legacy {
				t.Errorf("%q: %v %v", agent, *header, entry)
			}
		}
	}
}

func ref[T any](value T) *T { return &value }
