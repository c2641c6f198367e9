package tunnel

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

type fixture struct {
	t       *testing.T
	handler *Handler
	address string
	over    chan net.Conn
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, over: make(chan net.Conn, 1)}
	f.handler = NewHandler(func(conn net.Conn) { f.over <- conn })
	server := httptest.NewServer(f.handler)
	t.Cleanup(server.Close)
	f.address = server.Listener.Addr().String()
	return f
}

// ask sends a request and whatever follows it, and reads the answer's head.
func (f *fixture) ask(port any, follows string, headers ...string) (*net.TCPConn, *bufio.Reader, *http.Response) {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if headers == nil {
		headers = []string{"Connection: Upgrade", "Upgrade: tcp"}
	}
	head := fmt.Sprintf("GET /tunnel?port=%v HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", port, strings.Join(headers, "\r\n"))
	if _, err := io.WriteString(conn, head+follows); err != nil {
		f.t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return conn.(*net.TCPConn), reader, response
}

func (f *fixture) open(port int, follows string) (*net.TCPConn, *bufio.Reader) {
	f.t.Helper()
	conn, reader, response := f.ask(port, follows)
	if response.StatusCode != 101 || response.Header.Get("Connection") != "Upgrade" || response.Header.Get("Upgrade") != "tcp" {
		f.t.Fatalf("%s %v", response.Status, response.Header)
	}
	return conn, reader
}

// listen serves one connection on the loopback.
func listen(t *testing.T, address string, serve func(*net.TCPConn)) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("%s: %v", address, err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		serve(conn.(*net.TCPConn))
	}()
	return listener.Addr().(*net.TCPAddr).Port
}

func (f *fixture) wantOver() {
	f.t.Helper()
	select {
	case <-f.over:
	case <-time.After(patience):
		f.t.Fatal("the tunnel does not end")
	}
}

func all(t *testing.T, reader io.Reader) string {
	t.Helper()
	got, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestBothWaysWithHalfClose(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		f := newFixture(t)
		port := listen(t, address, func(server *net.TCPConn) {
			got, _ := io.ReadAll(server) // to the client's half-close
			_, _ = fmt.Fprintf(server, "got %s", got)
		})
		conn, reader := f.open(port, "early ")
		if _, err := io.WriteString(conn, "late"); err != nil {
			t.Fatal(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := all(t, reader); got != "got early late" {
			t.Errorf("%s: got %q", address, got)
		}
		f.wantOver()
	}
}

func TestTheServersHalfClose(t *testing.T) {
	f := newFixture(t)
	heard := make(chan string, 1)
	port := listen(t, "127.0.0.1:0", func(server *net.TCPConn) {
		_, _ = io.WriteString(server, "bye")
		_ = server.CloseWrite()
		got, _ := io.ReadAll(server)
		heard <- string(got)
	})
	conn, reader := f.open(port, "")
	if got := all(t, reader); got != "bye" {
		t.Errorf("got %q", got)
	}
	if _, err := io.WriteString(conn, "still here"); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("the server got %q", got)
	}
	f.wantOver()
}

func TestAResetIsPassedOn(t *testing.T) {
	f := newFixture(t)
	port := listen(t, "127.0.0.1:0", func(server *net.TCPConn) {
		_, _ = io.WriteString(server, "x")
		_, _ = server.Read(make([]byte, 1))
		_ = server.SetLinger(0)
	})
	conn, reader := f.open(port, "")
	if _, err := reader.ReadByte(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "x")
	if _, err := reader.ReadByte(); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v", err)
	}
	f.wantOver()

	broken := make(chan error, 1)
	port = listen(t, "127.0.0.1:0", func(server *net.TCPConn) {
		_, err := server.Read(make([]byte, 1))
		broken <- err
	})
	conn, _ = f.open(port, "")
	_ = conn.SetLinger(0)
	_ = conn.Close()
	if err := <-broken; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server got %v", err)
	}
	f.wantOver()
}

// Whatever passes, memory stays where it is.
func TestMuchPassesInLittleMemory(t *testing.T) {
	const size = 256 << 20
	f := newFixture(t)
	up := make(chan string, 1)
	seed := make([]byte, 1<<20)
	_, _ = rand.Read(seed)
	send := func(to io.Writer) string {
		sum := sha256.New()
		for range size / len(seed) {
			_, _ = io.MultiWriter(to, sum).Write(seed)
		}
		return fmt.Sprintf("%x", sum.Sum(nil))
	}
	receive := func(from io.Reader) string {
		sum := sha256.New()
		_, _ = io.Copy(sum, from)
		return fmt.Sprintf("%x", sum.Sum(nil))
	}
	port := listen(t, "127.0.0.1:0", func(server *net.TCPConn) {
		sent := make(chan string)
		go func() { sent <- send(server) }()
		got := receive(server)
		up <- got
		if got != <-sent {
			t.Error("the ways differ")
		}
	})
	conn, reader := f.open(port, "")
	before := allocated()
	go func() {
		send(conn)
		_ = conn.CloseWrite()
	}()
	down := receive(io.LimitReader(reader, size))
	if got := <-up; got != down {
		t.Errorf("up %s, down %s", got, down)
	}
	if grown := allocated() - before; grown > 8<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

func allocated() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.TotalAlloc)
}

func TestRefusals(t *testing.T) {
	f := newFixture(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := closed.Addr().(*net.TCPAddr).Port
	_ = closed.Close()
	_, own, _ := net.SplitHostPort(f.address)
	for _, test := range []struct {
		port    string
		headers []string
		status  int
		message string
	}{
		{strconv.Itoa(port), nil, 502, fmt.Sprintf("nothing listens on port %d", port)},
		{own, nil, 400, "envd's own port is not reached through it"},
		{"", nil, 400, "port '' is not a number from 1 to 65535"},
		{"0", nil, 400, "port '0' is not a number from 1 to 65535"},
		{"65536", nil, 400, "port '65536' is not a number from 1 to 65535"},
		{"-1", nil, 400, "port '-1' is not a number from 1 to 65535"},
		{"80%0d", nil, 400, `port '80\r' is not a number from 1 to 65535`},
		{"80", []string{"X: y"}, 426, "ask with 'Connection: Upgrade' and 'Upgrade: tcp'"},
		{"80", []string{"Connection: Upgrade", "Upgrade: websocket"}, 426, "ask with 'Connection: Upgrade' and 'Upgrade: tcp'"},
		{"80", []string{"Connection: close", "Upgrade: tcp"}, 426, "ask with 'Connection: Upgrade' and 'Upgrade: tcp'"},
	} {
		_, _, response := f.ask(test.port, "", test.headers...)
		want := fmt.Sprintf(`{"code":%d,"message":"%s"}`, test.status, test.message)
		if got := all(t, response.Body); response.StatusCode != test.status || got != want {
			t.Errorf("%s: got %d %s, want %s", test.port, response.StatusCode, got, want)
		}
	}
}

func TestTunnelsAreBounded(t *testing.T) {
	f := newFixture(t)
	f.handler.places = make(chan struct{}, 1)
	port := listen(t, "127.0.0.1:0", func(server *net.TCPConn) { _, _ = server.Read(make([]byte, 1)) })
	conn, _ := f.open(port, "")
	if _, _, response := f.ask(port, ""); response.StatusCode != 503 {
		t.Errorf("the second one: %s", response.Status)
	}
	_ = conn.Close()
	f.wantOver()
	f.handler.places <- struct{}{} // it has given its place back
}

// What listens but never accepts is not waited for for ever.
func TestFullListener(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t)
	port := bound.(*unix.SockaddrInet4).Port
	for range 2 { // what the queue takes before it is full
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 100*time.Millisecond)
		if err == nil {
			defer conn.Close()
		}
	}
	_, _, response := f.ask(port, "")
	if got := all(t, response.Body); response.StatusCode != 502 || !bytes.Contains([]byte(got), []byte("does not answer")) {
		t.Errorf("%d %s", response.StatusCode, got)
	}
}
