package process

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-dev/wrenn/envd/internal/batch"
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
		if sent, err := sendAll(ctx, events, send); err != nil {
			from.giveBack(events[sent:])
			return err
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

func sendAll(ctx context.Context, events []*pb.ProcessEvent, send func(*pb.ProcessEvent) error) (sent int, err error) {
	defer batch.Hold(ctx)()
	for i, event := range events {
		if ctx.Err() != nil {
			return i, ctx.Err()
		}
		if err := send(event); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

func startEvent(p *process) *pb.ProcessEvent {
	return &pb.ProcessEvent{Event: &pb.ProcessEvent_Start{Start: &pb.ProcessEvent_StartEvent{Pid: uint32(p.pid)}}}
}
