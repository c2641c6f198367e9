package process

import (
	"context"
	"errors"
	"os"
	"time"
)

var errStdin = errors.New("error writing to stdin: stdin not enabled or closed")

// input is the writing end of a program's standard input or terminal.
type input struct {
	file *os.File      // nil when the program was started without
	turn chan struct{} // capacity 1: one writer at a time, in order of arrival
}

func newInput(file *os.File) *input { return &input{file: file, turn: make(chan struct{}, 1)} }

// write waits until the program has taken everything or ctx ends.
func (i *input) write(ctx context.Context, data []byte) error {
	if i.file == nil {
		return errStdin
	}
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = i.file.SetWriteDeadline(longAgo)
		close(interrupted)
	})
	_, err := i.file.Write(data)
	if !stop() {
		<-interrupted
		_ = i.file.SetWriteDeadline(time.Time{})
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ctx.Err()
	default: // closed by us or by the program
		return errStdin
	}
}

// close ends the input; safe to repeat, and while a write waits.
func (i *input) close() {
	if i.file != nil {
		_ = i.file.Close()
	}
}
