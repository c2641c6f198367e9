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
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	inside int // how many of them come from this machine
}

// maxInside bounds the connections from programs of the guest: each costs envd some 20 KiB, and they need no token to
// open one. The host bounds its own.
const maxInside = 512

type connKey struct{}

func (l *lives) connContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// connState follows a connection, which as a tunnel stays open until forget is told of its end.
func (l *lives) connState(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if !l.begin(conn) {
			reset(conn)
		}
	case http.StateClosed:
		l.forget(conn)
	}
}

// begin is false for one connection too many.
func (l *lives) begin(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if fromInside(conn) {
		if l.inside == maxInside {
			return false
		}
		l.inside++
	}
	if l.open == nil {
		l.open = map[net.Conn]struct{}{}
	}
	l.open[conn] = struct{}{}
	return true
}

func (l *lives) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.open[conn]; ok && fromInside(conn) {
		l.inside--
	}
	delete(l.open, conn)
}

func fromInside(conn net.Conn) bool {
	local, _ := conn.LocalAddr().(*net.TCPAddr)
	remote, _ := conn.RemoteAddr().(*net.TCPAddr)
	return local != nil && remote != nil && (remote.IP.IsLoopback() || remote.IP.Equal(local.IP))
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
		reset(conn)
	}
}

// reset closes a connection of which nobody is there to take what is still unsent.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
