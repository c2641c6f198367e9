// Package batch lets the messages of a stream that are there together leave together: a packet for each of them costs
// the guest more than all the rest.
package batch

import (
	"context"
	"net/http"
)

type key struct{}

// writer flushes when it is not held.
type writer struct {
	http.ResponseWriter
	held, due bool
}

// Handler lets the requests of next use Hold.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := &writer{ResponseWriter: w}
		next.ServeHTTP(held, r.WithContext(context.WithValue(r.Context(), key{}, held)))
	})
}

// Hold keeps what the request of ctx answers until release, as far as the server's buffer goes.
func Hold(ctx context.Context) (release func()) {
	w, ok := ctx.Value(key{}).(*writer)
	if !ok {
		return func() {}
	}
	w.held = true
	return func() {
		w.held = false
		if w.due {
			w.Flush()
		}
	}
}

// Flush implements http.Flusher.
func (w *writer) Flush() {
	if w.due = w.held; w.due {
		return
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
