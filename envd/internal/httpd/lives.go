package httpd

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// lives knows the open connections, to end those of an earlier life of the guest: after a restore their peers
// are gone, but the guest's TCP would hold them, and a program's output, for a quarter of an hour.
type lives struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

type connKey struct{}

func (l *lives) connContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// connState follows a connection, which as a tunnel stays open until forget is told of its end.
func (l *lives) connState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.open == nil {
			l.open = map[net.Conn]struct{}{}
		}
		l.open[conn] = struct{}{}
	case http.StateClosed:
		l.forget(conn)
	}
}

func (l *lives) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, conn)
}

// endOthers closes all connections but the one that ctx belongs to.
func (l *lives) endOthers(ctx context.Context) {
	l.mu.Lock()
	var old []net.Conn
	for conn := range l.open {
		if conn != ctx.Value(connKey{}) {
			old = append(old, conn)
		}
	}
	l.mu.Unlock()
	for _, conn := range old {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // nobody is there to take what is still unsent
		}
		_ = conn.Close()
	}
}
