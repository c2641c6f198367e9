// Package process runs programs in the guest and carries their input and output (process.proto).
package process

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/keepalive"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

type (
	request[T any]  = connect.Request[T]
	response[T any] = connect.Response[T]
)

// Service implements process.Process.
type Service struct {
	machine *guest.Guest
	table   *table
}

// NewService gives a service without programs.
func NewService(machine *guest.Guest) *Service {
	return &Service{machine: machine, table: newTable()}
}

// List gives the programs that envd started and that run.
func (s *Service) List(context.Context, *request[pb.ListRequest]) (*response[pb.ListResponse], error) {
	return connect.NewResponse(&pb.ListResponse{Processes: s.table.list()}), nil
}

// Start runs a program. The request's deadline is its lifetime.
func (s *Service) Start(ctx context.Context, req *request[pb.StartRequest],
	stream *connect.ServerStream[pb.StartResponse],
) error {
	cmd, err := s.prepare(req)
	if err != nil {
		return err
	}
	var lifetime time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		lifetime = max(time.Until(deadline), time.Nanosecond)
	}
	p, first, err := s.table.start(s.machine, cmd, req.Msg, lifetime)
	if err != nil {
		return startError(req.Msg.GetProcess().GetCmd(), err)
	}
	defer s.leave(p, first)
	err = relay(ctx, p, first, keepalive.Interval(req.Header()), func(event *pb.ProcessEvent) error {
		if event.GetEnd() != nil && p.isExpired() {
			return errDeadline // clients tell a timeout by the error, not by the exit code
		}
		return stream.Send(&pb.StartResponse{Event: event})
	})
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		p.expire() // the process's own timer may be a moment behind
		p.waitGone(context.WithoutCancel(ctx))
		return errDeadline
	}
	return err
}

// Connect joins a running program, or replays start and end of one that ended a short while ago. What others have
// been given is not told again; of a terminal, the last of what nobody was there to take comes first.
func (s *Service) Connect(ctx context.Context, req *request[pb.ConnectRequest],
	stream *connect.ServerStream[pb.ConnectResponse],
) error {
	p := s.table.find(req.Msg.GetProcess(), true)
	if p == nil {
		return notFound(req.Msg.GetProcess())
	}
	send := func(event *pb.ProcessEvent) error {
		return stream.Send(&pb.ConnectResponse{Event: event})
	}
	sub := p.hub.subscribe()
	if sub == nil {
		events := append([]*pb.ProcessEvent{startEvent(p)}, p.hub.missed()...)
		for _, event := range append(events, &pb.ProcessEvent{Event: &pb.ProcessEvent_End{End: p.end}}) {
			if err := send(event); err != nil {
				return err
			}
		}
		return nil
	}
	defer s.leave(p, sub)
	err := relay(ctx, p, sub, keepalive.Interval(req.Header()), send)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errDeadline
	}
	return err
}

// Update resizes a terminal.
func (s *Service) Update(_ context.Context, req *request[pb.UpdateRequest]) (*response[pb.UpdateResponse], error) {
	p := s.table.find(req.Msg.GetProcess(), false)
	if p == nil {
		return nil, notFound(req.Msg.GetProcess())
	}
	if p.tty == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the process has no terminal"))
	}
	if req.Msg.GetPty() != nil {
		if err := resize(p.tty, sizeOf(req.Msg.GetPty())); err != nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("resize the terminal: %w", err))
		}
	}
	return connect.NewResponse(&pb.UpdateResponse{}), nil
}

// SendInput writes to a program and returns when it has taken everything.
func (s *Service) SendInput(ctx context.Context, req *request[pb.SendInputRequest],
) (*response[pb.SendInputResponse], error) {
	p := s.table.find(req.Msg.GetProcess(), false)
	if p == nil {
		return nil, notFound(req.Msg.GetProcess())
	}
	if err := write(ctx, p, req.Msg.GetInput()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.SendInputResponse{}), nil
}

// StreamInput writes a stream of input; its first message names the program.
func (s *Service) StreamInput(ctx context.Context, stream *connect.ClientStream[pb.StreamInputRequest],
) (*response[pb.StreamInputResponse], error) {
	var p *process
	for stream.Receive() {
		switch event := stream.Msg().GetEvent().(type) {
		case *pb.StreamInputRequest_Start:
			if p = s.table.find(event.Start.GetProcess(), false); p == nil {
				return nil, notFound(event.Start.GetProcess())
			}
		case *pb.StreamInputRequest_Data:
			if p == nil {
				return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("the first message must be start"))
			}
			if err := write(ctx, p, event.Data.GetInput()); err != nil {
				return nil, err
			}
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&pb.StreamInputResponse{}), nil
}

// SendSignal signals the process group; after SIGKILL it returns when the program is gone.
func (s *Service) SendSignal(ctx context.Context, req *request[pb.SendSignalRequest],
) (*response[pb.SendSignalResponse], error) {
	number := map[pb.Signal]syscall.Signal{
		pb.Signal_SIGNAL_SIGKILL: syscall.SIGKILL,
		pb.Signal_SIGNAL_SIGTERM: syscall.SIGTERM,
	}[req.Msg.GetSignal()]
	if number == 0 {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("invalid signal: %s", req.Msg.GetSignal()))
	}
	p := s.table.find(req.Msg.GetProcess(), false)
	if p == nil || !p.signal(number) {
		return nil, notFound(req.Msg.GetProcess())
	}
	if number == syscall.SIGKILL {
		p.waitGone(ctx)
	}
	return connect.NewResponse(&pb.SendSignalResponse{}), nil
}

// CloseStdin ends a program's input; safe to repeat.
func (s *Service) CloseStdin(_ context.Context, req *request[pb.CloseStdinRequest],
) (*response[pb.CloseStdinResponse], error) {
	p := s.table.find(req.Msg.GetProcess(), false)
	if p == nil {
		return nil, notFound(req.Msg.GetProcess())
	}
	if p.tty != nil {
		return nil, connect.NewError(connect.CodeUnknown,
			errors.New("a terminal's input cannot be closed: send Ctrl+D (0x04)"))
	}
	p.input.close()
	return connect.NewResponse(&pb.CloseStdinResponse{}), nil
}

// prepare turns a request into a command, or into the error that its client gets.
func (s *Service) prepare(req *request[pb.StartRequest]) (*command, error) {
	name, err := auth.Username(req.Header())
	if err != nil {
		return nil, connect.NewError(connect.CodeUnauthenticated, err)
	}
	state := s.machine.State()
	user, err := s.machine.User(name)
	if errors.Is(err, users.ErrUnknown) {
		if name == "" {
			name = state.DefaultUser
		}
		return nil, connect.NewError(connect.CodeUnauthenticated, fmt.Errorf("invalid username: '%s'", name))
	} else if err != nil {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	config := req.Msg.GetProcess()
	if config == nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no process given"))
	}
	cmd := &command{user: user, stdin: req.Msg.Stdin == nil || *req.Msg.Stdin}
	if cmd.env, err = environment(user, state, config.GetEnvs()); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	if cmd.dir, err = workdir(user, state, config.Cwd); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	cmd.argv = append([]string{config.GetCmd()}, config.GetArgs()...)
	for _, argument := range cmd.argv {
		if strings.ContainsRune(argument, 0) {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("an argument contains a NUL byte"))
		}
	}
	if cmd.path, err = executable(config.GetCmd(), cmd.dir, cmd.env); err != nil {
		return nil, startError(config.GetCmd(), err)
	}
	if req.Msg.GetPty() != nil {
		wanted := sizeOf(req.Msg.GetPty())
		cmd.size = &wanted
	}
	return cmd, nil
}

func sizeOf(terminal *pb.PTY) size {
	clip := func(n uint32) uint16 { return uint16(min(n, math.MaxUint16)) }
	return size{cols: clip(terminal.GetSize().GetCols()), rows: clip(terminal.GetSize().GetRows())}
}

func startError(cmd string, err error) error {
	code := connect.CodeInvalidArgument
	switch {
	case errors.Is(err, errResources), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		code = connect.CodeResourceExhausted
	}
	return connect.NewError(code, fmt.Errorf("error starting process '%s': %w", cmd, err))
}

func notFound(selector *pb.ProcessSelector) error {
	var err error
	switch by := selector.GetSelector().(type) {
	case *pb.ProcessSelector_Pid:
		err = fmt.Errorf("process with pid %d not found", by.Pid)
	case *pb.ProcessSelector_Tag:
		err = fmt.Errorf("process with tag '%s' not found", by.Tag)
	default:
		return connect.NewError(connect.CodeInvalidArgument, errors.New("no process selected"))
	}
	return connect.NewError(connect.CodeNotFound, err)
}

func write(ctx context.Context, p *process, data *pb.ProcessInput) error {
	var err error
	switch in := data.GetInput().(type) {
	case *pb.ProcessInput_Stdin:
		if p.tty != nil {
			err = errStdin
		} else {
			err = p.input.write(ctx, in.Stdin)
		}
	case *pb.ProcessInput_Pty:
		if p.tty == nil {
			err = errors.New("error writing to tty: the process has no terminal")
		} else {
			err = p.input.write(ctx, in.Pty)
		}
	default:
		return connect.NewError(connect.CodeInvalidArgument, errors.New("no input given"))
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}
