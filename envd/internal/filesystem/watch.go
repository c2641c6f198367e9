package filesystem

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/batch"
	"github.com/wrenn-dev/wrenn/envd/internal/keepalive"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/watch"
)

// maxWatchers bounds streams and pollers together. Each holds up to 0.5 MiB of events and one of the kernel's inotify
// instances, of which root has 128.
const maxWatchers = 64

// watchRequest is what both ways to watch are asked with.
type watchRequest interface {
	GetPath() string
	GetRecursive() bool
	GetIncludeEntry() bool
	GetAllowNetworkMounts() bool
}

// WatchDir sends the events of a directory from its start event on.
func (s *Service) WatchDir(ctx context.Context, req *request[pb.WatchDirRequest],
	stream *connect.ServerStream[pb.WatchDirResponse],
) error {
	open, err := s.watcher(req.Header(), req.Msg)
	if err != nil {
		return err
	}
	release, err := s.takeWatcherSlot()
	if err != nil {
		return err
	}
	defer release()
	watcher, err := open(ctx)
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := stream.Send(&pb.WatchDirResponse{
		Event: &pb.WatchDirResponse_Start{Start: &pb.WatchDirResponse_StartEvent{}},
	}); err != nil {
		return err
	}
	err = relay(ctx, watcher, keepalive.Interval(req.Header()), stream.Send)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the request's deadline has passed"))
	}
	return err
}

// relay sends a watcher's events until ctx ends, a send or the watcher fails. A keep-alive fills every silence of the
// given length.
func relay(ctx context.Context, from *watch.Watcher, silence time.Duration, send func(*pb.WatchDirResponse) error) error {
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		events, failed := from.Take()
		if err := sendAll(ctx, events, send); err != nil {
			return err
		}
		if failed != nil {
			return watchError("", failed)
		}
		if len(events) > 0 {
			timer.Reset(silence)
		}
		select {
		case <-from.Ready():
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			keepalive := &pb.WatchDirResponse_Keepalive{Keepalive: &pb.WatchDirResponse_KeepAlive{}}
			if err := send(&pb.WatchDirResponse{Event: keepalive}); err != nil {
				return err
			}
			timer.Reset(silence)
		}
	}
}

func sendAll(ctx context.Context, events []*pb.FilesystemEvent, send func(*pb.WatchDirResponse) error) error {
	defer batch.Hold(ctx)()
	for _, event := range events {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := send(&pb.WatchDirResponse{Event: &pb.WatchDirResponse_Filesystem{Filesystem: event}}); err != nil {
			return err
		}
	}
	return nil
}

// CreateWatcher begins to collect the events of a directory for GetWatcherEvents.
func (s *Service) CreateWatcher(ctx context.Context, req *request[pb.CreateWatcherRequest],
) (*response[pb.CreateWatcherResponse], error) {
	open, err := s.watcher(req.Header(), req.Msg)
	if err != nil {
		return nil, err
	}
	release, err := s.takeWatcherSlot()
	if err != nil {
		return nil, err
	}
	watcher, err := open(ctx)
	if err != nil {
		release()
		return nil, err
	}
	id := s.pollers.add(&poller{watcher: watcher, open: open, release: release})
	return connect.NewResponse(&pb.CreateWatcherResponse{WatcherId: id}), nil
}

// GetWatcherEvents gives what has happened since the previous call. When events were lost in between it fails once,
// with resource_exhausted, and goes on from there.
func (s *Service) GetWatcherEvents(ctx context.Context, req *request[pb.GetWatcherEventsRequest],
) (*response[pb.GetWatcherEventsResponse], error) {
	poller := s.pollers.find(req.Msg.GetWatcherId())
	if poller == nil {
		return nil, noWatcher(req.Msg.GetWatcherId())
	}
	events, err := poller.poll(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.GetWatcherEventsResponse{Events: events}), nil
}

// RemoveWatcher ends a watcher made by CreateWatcher.
func (s *Service) RemoveWatcher(_ context.Context, req *request[pb.RemoveWatcherRequest],
) (*response[pb.RemoveWatcherResponse], error) {
	if !s.pollers.remove(req.Msg.GetWatcherId()) {
		return nil, noWatcher(req.Msg.GetWatcherId())
	}
	return connect.NewResponse(&pb.RemoveWatcherResponse{}), nil
}

// openWatcher begins to watch what a request has named.
type openWatcher func(context.Context) (*watch.Watcher, error)

func (s *Service) watcher(header http.Header, asked watchRequest) (openWatcher, error) {
	_, path, err := s.resolve(header, asked.GetPath())
	if err != nil {
		return nil, err
	}
	options := watch.Options{Recursive: asked.GetRecursive(), NetworkMounts: asked.GetAllowNetworkMounts()}
	if asked.GetIncludeEntry() {
		options.Describe = describer()
	}
	return func(ctx context.Context) (*watch.Watcher, error) {
		watcher, err := watch.Open(ctx, path, options)
		if err != nil {
			return nil, watchError(path, err)
		}
		return watcher, nil
	}, nil
}

// describer gives the entries of paths that may be gone already. It knows names for a second: a look-up for each event
// would be most of its cost, and users come and go while a watcher lives.
func describer() func(path string) *pb.EntryInfo {
	known, until := newNames(), time.Time{}
	return func(path string) *pb.EntryInfo {
		if now := time.Now(); now.After(until) {
			known, until = newNames(), now.Add(time.Second)
		}
		entry, err := known.stat(path)
		if err != nil {
			return nil
		}
		return entry
	}
}

func (s *Service) takeWatcherSlot() (release func(), err error) {
	select {
	case s.watchers <- struct{}{}:
		return func() { <-s.watchers }, nil
	default:
		return nil, connect.NewError(connect.CodeResourceExhausted,
			fmt.Errorf("%d watchers are open: stop one of them", maxWatchers))
	}
}

func noWatcher(id string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("watcher with id '%s' not found", id))
}

func watchError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("path is not a directory: %s", path))
	case errors.Is(err, watch.ErrNetwork):
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("watch %s: %w", path, err))
	case errors.Is(err, watch.ErrLost), errors.Is(err, watch.ErrLimit):
		return connect.NewError(connect.CodeResourceExhausted, err)
	}
	return wireError(path, err)
}
