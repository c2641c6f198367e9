package filesystem

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

var ctx = context.Background()

func newService(t *testing.T) (*Service, string) {
	t.Helper()
	machine := guest.OpenUntouched(nil)
	if _, err := machine.Init("", &guest.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	return NewService(machine), t.TempDir()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	var failure *connect.Error
	if !errors.As(err, &failure) || failure.Code() != code || !strings.Contains(failure.Message(), text) {
		t.Errorf("got %v, want %s %q", err, code, text)
	}
}

func (s *Service) entry(t *testing.T, path string) *pb.EntryInfo {
	t.Helper()
	answer, err := s.Stat(ctx, connect.NewRequest(&pb.StatRequest{Path: path}))
	must(t, err)
	return answer.Msg.GetEntry()
}

func TestStat(t *testing.T) {
	s, dir := newService(t)
	file := filepath.Join(dir, "a.txt")
	must(t, os.WriteFile(file, []byte("12345"), 0o640))
	must(t, os.Chmod(file, 0o640|os.ModeSetuid))
	got := s.entry(t, file)
	if got.GetName() != "a.txt" || got.GetPath() != file || got.GetType() != pb.FileType_FILE_TYPE_FILE ||
		got.GetSize() != 5 || got.GetMode() != 0o640 || got.GetPermissions() != "urw-r-----" || got.SymlinkTarget != nil ||
		got.GetModifiedTime().AsTime().IsZero() || got.GetOwner() == "" || got.GetGroup() == "" {
		t.Errorf("file: %v", got)
	}
	if got := s.entry(t, dir); got.GetType() != pb.FileType_FILE_TYPE_DIRECTORY || got.GetSize() == 0 || got.GetPermissions()[0] != 'd' {
		t.Errorf("directory: %v", got)
	}
	_, err := s.Stat(ctx, connect.NewRequest(&pb.StatRequest{Path: dir + "/nope"}))
	wantCode(t, err, connect.CodeNotFound, "file not found: "+dir+"/nope")
	_, err = s.Stat(ctx, connect.NewRequest(&pb.StatRequest{Path: "a\x00"}))
	wantCode(t, err, connect.CodeInvalidArgument, "NUL")
}

func TestMetadataIsTold(t *testing.T) {
	s, dir := newService(t)
	file := filepath.Join(dir, "a")
	must(t, os.WriteFile(file, nil, 0o644))
	must(t, os.Symlink("a", dir+"/link"))
	for name, value := range map[string]string{"user.e2b.owner": "me", "user.e2b.kind": "\xff", "user.other": "x"} {
		if err := unix.Setxattr(file, name, []byte(value), 0); err != nil {
			t.Skipf("no user attributes here: %v", err)
		}
	}
	want := map[string]string{"owner": "me", "kind": "\uFFFD"}
	if got := s.entry(t, file).GetMetadata(); !reflect.DeepEqual(got, want) {
		t.Errorf("stat: %v", got)
	}
	answer, err := s.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: dir}))
	must(t, err)
	for _, entry := range answer.Msg.GetEntries() {
		if got := entry.GetMetadata(); entry.GetName() == "a" != reflect.DeepEqual(got, want) {
			t.Errorf("list: %s %v", entry.GetName(), got)
		}
	}
}

func TestStatOfLinks(t *testing.T) {
	s, dir := newService(t)
	must(t, os.WriteFile(dir+"/a", nil, 0o644))
	for name, target := range map[string]string{"file": "a", "dir": ".", "dangling": "nope", "chain": "file"} {
		must(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	for name, want := range map[string]struct {
		kind   pb.FileType
		target string
	}{
		"file":     {pb.FileType_FILE_TYPE_FILE, dir + "/a"},
		"chain":    {pb.FileType_FILE_TYPE_FILE, dir + "/a"},
		"dir":      {pb.FileType_FILE_TYPE_DIRECTORY, dir},
		"dangling": {pb.FileType_FILE_TYPE_SYMLINK, dir + "/nope"},
	} {
		got := s.entry(t, filepath.Join(dir, name))
		if got.GetType() != want.kind || got.GetSymlinkTarget() != want.target || got.GetPermissions() != "Lrwxrwxrwx" || got.GetIsSymlink() {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestListDir(t *testing.T) {
	s, dir := newService(t)
	for _, path := range []string{"b/c/d", "a/x"} {
		must(t, os.MkdirAll(filepath.Join(dir, path), 0o755))
	}
	must(t, os.WriteFile(dir+"/a.txt", nil, 0o644))
	must(t, os.Symlink("b", dir+"/link"))
	list := func(path string, depth uint32) []string {
		answer, err := s.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: path, Depth: depth}))
		must(t, err)
		var paths []string
		for _, entry := range answer.Msg.GetEntries() {
			paths = append(paths, entry.GetPath())
		}
		return paths
	}
	under := func(root string, names ...string) (paths []string) {
		for _, name := range names {
			paths = append(paths, root+"/"+name)
		}
		return paths
	}
	for depth, want := range map[uint32][]string{
		0: under(dir, "a", "a.txt", "b", "link"),
		1: under(dir, "a", "a.txt", "b", "link"),
		2: under(dir, "a", "a/x", "a.txt", "b", "b/c", "link"),
		9: under(dir, "a", "a/x", "a.txt", "b", "b/c", "b/c/d", "link"),
	} {
		if got := list(dir, depth); !reflect.DeepEqual(got, want) {
			t.Errorf("depth %d: got %v, want %v", depth, got, want)
		}
	}
	// the client's own name for the root stays
	if got, want := list(dir+"/link", 2), under(dir+"/link", "c", "c/d"); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err := s.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: dir + "/a.txt"}))
	wantCode(t, err, connect.CodeInvalidArgument, "not a directory")
	_, err = s.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: dir + "/nope"}))
	wantCode(t, err, connect.CodeNotFound, "")
}

func TestListOfProc(t *testing.T) {
	s, _ := newService(t)
	answer, err := s.ListDir(ctx, connect.NewRequest(&pb.ListDirRequest{Path: "/proc", Depth: 2}))
	must(t, err) // its entries come and go while they are listed
	if len(answer.Msg.GetEntries()) < 100 {
		t.Errorf("%d entries", len(answer.Msg.GetEntries()))
	}
}

func TestMakeDir(t *testing.T) {
	s, dir := newService(t)
	path := dir + "/a/b/c"
	answer, err := s.MakeDir(ctx, connect.NewRequest(&pb.MakeDirRequest{Path: path}))
	must(t, err)
	if got := answer.Msg.GetEntry(); got.GetPath() != path || got.GetMode() != 0o755 {
		t.Errorf("got %v", got)
	}
	_, err = s.MakeDir(ctx, connect.NewRequest(&pb.MakeDirRequest{Path: path}))
	wantCode(t, err, connect.CodeAlreadyExists, "")
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	for _, bad := range []string{dir + "/file", dir + "/file/x"} {
		_, err = s.MakeDir(ctx, connect.NewRequest(&pb.MakeDirRequest{Path: bad}))
		wantCode(t, err, connect.CodeInvalidArgument, "")
	}
}

func TestMove(t *testing.T) {
	s, dir := newService(t)
	must(t, os.WriteFile(dir+"/a", []byte("x"), 0o644))
	move := func(source, destination string) (*pb.EntryInfo, error) {
		answer, err := s.Move(ctx, connect.NewRequest(&pb.MoveRequest{Source: source, Destination: destination}))
		if err != nil {
			return nil, err
		}
		return answer.Msg.GetEntry(), nil
	}
	entry, err := move(dir+"/a", dir+"/new/b")
	must(t, err)
	if entry.GetPath() != dir+"/new/b" || entry.GetName() != "b" {
		t.Errorf("got %v", entry)
	}
	_, err = move(dir+"/a", dir+"/c")
	wantCode(t, err, connect.CodeNotFound, "")
	_, err = move(dir+"/new", dir+"/new/below")
	wantCode(t, err, connect.CodeInvalidArgument, "")
}

func TestRemove(t *testing.T) {
	s, dir := newService(t)
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	for range 2 { // absent is fine
		_, err := s.Remove(ctx, connect.NewRequest(&pb.RemoveRequest{Path: dir + "/a"}))
		must(t, err)
	}
	if _, err := os.Lstat(dir + "/a"); err == nil {
		t.Error("it is still there")
	}
	_, err := s.Remove(ctx, connect.NewRequest(&pb.RemoveRequest{Path: "/tmp/.."}))
	wantCode(t, err, connect.CodeInvalidArgument, "root directory")
}

func TestUnknownUser(t *testing.T) {
	s, _ := newService(t)
	request := connect.NewRequest(&pb.StatRequest{Path: "x"})
	request.Header().Set("Authorization", "Basic bm9zdWNodXNlcjo=")
	_, err := s.Stat(ctx, request)
	wantCode(t, err, connect.CodeUnauthenticated, "invalid username: 'nosuchuser'")
}
