package process

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/process"
)

var errDeadline = connect.NewError(connect.CodeDeadlineExceeded, errors.New("the request's deadline has passed"))

// relay sends a start event and then a subscriber's events until the end, ctx's end, or a failed send. A
// keep-alive fills every silence of the given length.
func relay(ctx context.Context, p *process, from *subscriber, silence time.Duration,
	send func(*pb.ProcessEvent) error,
) error {
	if err := send(startEvent(p)); err != nil {
		return err
	}
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		events, closed, err := from.take()
		for i, event := range events {
			err := ctx.Err()
			if err == nil {
				err = send(event)
			}
			if err != nil {
				from.giveBack(events[i:])
				return err
			}
		}
		if closed {
			if err != nil {
				return connect.NewError(connect.CodeResourceExhausted, err)
			}
			return nil
		}
		if len(events) > 0 {
			timer.Reset(silence)
		}
		select {
		case <-from.ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			keepalive := &pb.ProcessEvent_Keepalive{Keepalive: &pb.ProcessEvent_KeepAlive{}}
			if err := send(&pb.ProcessEvent{Event: keepalive}); err != nil {
				return err
			}
			timer.Reset(silence)
		}
	}
}

func startEvent(p *process) *pb.ProcessEvent {
	return &pb.ProcessEvent{Event: &pb.ProcessEvent_Start{Start: &pb.ProcessEvent_StartEvent{Pid: uint32(p.pid)}}}
}
