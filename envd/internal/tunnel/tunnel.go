// Package tunnel carries raw bytes to the ports of this machine's loopback, which the host cannot reach.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/files"
)

const (
	// how many tunnels may be open; each takes about 40 KiB with what the kernel has for it
	maxTunnels = 1024
	// A loopback answers at once, unless the listener's queue is full.
	dialTimeout = 5 * time.Second

	protocol = "tcp"
)

// Handler serves GET /tunnel?port=N: after 101 the connection is one to the port.
type Handler struct {
	places chan struct{} // one for each open tunnel
	ended  func(net.Conn)
}

// NewHandler serves tunnels. ended is told of a client's connection when its tunnel is over.
func NewHandler(ended func(net.Conn)) *Handler {
	return &Handler{places: make(chan struct{}, maxTunnels), ended: ended}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	port, err := parsePort(r.URL.Query().Get("port"))
	if err == nil && port == ownPort(r) {
		err = errors.New("envd's own port is not reached through it")
	}
	if err != nil {
		files.WriteError(w, http.StatusBadRequest, err.Error())
		return
	}
	if !isUpgrade(r.Header) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", protocol)
		files.WriteError(w, http.StatusUpgradeRequired, "ask with 'Connection: Upgrade' and 'Upgrade: tcp'")
		return
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		files.WriteError(w, http.StatusServiceUnavailable, fmt.Sprintf("%d tunnels are open", maxTunnels))
		return
	}
	server, err := dial(r.Context(), port)
	if err != nil {
		files.WriteError(w, http.StatusBadGateway, err.Error())
		return
	}
	defer server.Close()
	if err := h.join(w, server); err != nil {
		files.WriteError(w, http.StatusInternalServerError, err.Error())
	}
}

// join takes the client's connection over and carries bytes until both sides have ended. An error is for the client.
func (h *Handler) join(w http.ResponseWriter, server *net.TCPConn) error {
	taken, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer h.ended(taken)
	defer taken.Close()
	client, ok := taken.(*net.TCPConn)
	if !ok {
		return nil
	}
	header := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + protocol + "\r\n\r\n"
	if _, err := io.WriteString(client, header); err != nil {
		return nil
	}
	// What the client has sent behind its request is in the buffer, all that is left of it.
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	if _, err := server.Write(early); err != nil {
		abort(client)
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(client, server)
	}()
	carry(server, client)
	<-done
	return nil
}

// carry copies until the end of one side, which becomes the end of the other's input. Both are TCP, so the kernel moves
// the bytes (splice). A broken side breaks the other one.
func carry(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		abort(to)
		abort(from)
		return
	}
	if err := to.CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		abort(from)
	}
}

// abort resets a connection: its end shall not look like a clean one.
func abort(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// dial connects to the port of the loopback: IPv4, then IPv6. Its error is for the client.
func dial(ctx context.Context, port uint16) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	var last error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if last == nil || !errors.Is(err, unix.ECONNREFUSED) {
			last = err
		}
	}
	if errors.Is(last, unix.ECONNREFUSED) || errors.Is(last, unix.EADDRNOTAVAIL) { // refused, and no IPv6 here
		return nil, fmt.Errorf("nothing listens on port %d", port)
	}
	return nil, fmt.Errorf("port %d does not answer: %w", port, last)
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port '%s' is not a number from 1 to 65535", text)
	}
	return uint16(port), nil
}

func ownPort(r *http.Request) uint16 {
	if address, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return uint16(address.Port)
	}
	return 0
}

func isUpgrade(header http.Header) bool {
	for _, value := range header.Values("Connection") {
		for option := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(option), "upgrade") {
				return strings.EqualFold(header.Get("Upgrade"), protocol)
			}
		}
	}
	return false
}
