// Package filesystem describes and changes the file tree (filesystem.proto).
package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
	"github.com/wrenn-dev/wrenn/envd/internal/dirs"
	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

type (
	request[T any]  = connect.Request[T]
	response[T any] = connect.Response[T]
)

// Service implements filesystem.Filesystem.
type Service struct {
	machine  *guest.Guest
	watchers chan struct{} // one for each that is open
	pollers  *pollers
}

// NewService serves the files of machine.
func NewService(machine *guest.Guest) *Service {
	return &Service{machine: machine, watchers: make(chan struct{}, maxWatchers), pollers: newPollers()}
}

// Stat describes one path.
func (s *Service) Stat(_ context.Context, req *request[pb.StatRequest]) (*response[pb.StatResponse], error) {
	_, path, err := s.resolve(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	entry, err := newNames().stat(path)
	if err != nil {
		return nil, wireError(path, err)
	}
	return connect.NewResponse(&pb.StatResponse{Entry: entry}), nil
}

// MakeDir makes a directory and its parents.
func (s *Service) MakeDir(_ context.Context, req *request[pb.MakeDirRequest],
) (*response[pb.MakeDirResponse], error) {
	user, path, err := s.resolve(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("directory already exists: '%s'", path))
	} else if err == nil {
		return nil, connect.NewError(connect.CodeInvalidArgument,
			fmt.Errorf("path already exists but it is not a directory: '%s'", path))
	}
	if err := dirs.Make(path, user); err != nil {
		return nil, wireError(path, err)
	}
	entry, err := newNames().stat(path)
	if err != nil {
		return nil, wireError(path, err)
	}
	return connect.NewResponse(&pb.MakeDirResponse{Entry: entry}), nil
}

// Move renames a file or directory; the destination's parents are made.
func (s *Service) Move(_ context.Context, req *request[pb.MoveRequest]) (*response[pb.MoveResponse], error) {
	user, source, err := s.resolve(req.Header(), req.Msg.GetSource())
	if err != nil {
		return nil, err
	}
	_, destination, err := s.resolve(req.Header(), req.Msg.GetDestination())
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(source); err != nil {
		return nil, wireError(source, err)
	}
	if err := dirs.Make(filepath.Dir(destination), user); err != nil {
		return nil, wireError(destination, err)
	}
	if err := os.Rename(source, destination); err != nil {
		return nil, wireError(source, err)
	}
	entry, err := newNames().stat(destination)
	if err != nil {
		return nil, wireError(destination, err)
	}
	return connect.NewResponse(&pb.MoveResponse{Entry: entry}), nil
}

// ListDir lists a directory to the given depth.
func (s *Service) ListDir(ctx context.Context, req *request[pb.ListDirRequest],
) (*response[pb.ListDirResponse], error) {
	_, path, err := s.resolve(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	entries, err := list(ctx, path, max(1, int(req.Msg.GetDepth())))
	if err != nil {
		return nil, wireError(path, err)
	}
	return connect.NewResponse(&pb.ListDirResponse{Entries: entries}), nil
}

// Remove deletes a path and everything below it; absent is fine.
func (s *Service) Remove(_ context.Context, req *request[pb.RemoveRequest]) (*response[pb.RemoveResponse], error) {
	_, path, err := s.resolve(req.Header(), req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	if path == "/" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the root directory cannot be removed"))
	}
	if err := os.RemoveAll(path); err != nil {
		return nil, wireError(path, err)
	}
	return connect.NewResponse(&pb.RemoveResponse{}), nil
}

// resolve finds the request's user and the absolute form of path.
func (s *Service) resolve(header http.Header, path string) (users.User, string, error) {
	name, err := auth.Username(header)
	if err != nil {
		return users.User{}, "", connect.NewError(connect.CodeUnauthenticated, err)
	}
	state := s.machine.State()
	user, err := s.machine.User(name)
	if errors.Is(err, users.ErrUnknown) {
		if name == "" {
			name = state.DefaultUser
		}
		return users.User{}, "", connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("invalid username: '%s'", name))
	} else if err != nil {
		return users.User{}, "", connect.NewError(connect.CodeInternal, err)
	}
	resolved, err := user.Resolve(path, state.DefaultWorkdir)
	if err != nil {
		return users.User{}, "", connect.NewError(connect.CodeInvalidArgument, err)
	}
	return user, resolved, nil
}

// wireError maps an error of the file system.
func wireError(path string, err error) error {
	var known *connect.Error
	if errors.As(err, &known) {
		return err
	}
	code := connect.CodeInternal
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("file not found: %s", path))
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EXDEV):
		code = connect.CodeInvalidArgument
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, fs.ErrExist):
		code = connect.CodeAlreadyExists
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS), errors.Is(err, unix.EBUSY):
		code = connect.CodePermissionDenied
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = connect.CodeResourceExhausted
	case errors.Is(err, context.Canceled):
		code = connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		code = connect.CodeDeadlineExceeded
	}
	return connect.NewError(code, err)
}
