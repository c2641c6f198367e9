package httpd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
)

const unauthorized = `{"code":401,"message":"unauthorized access, please provide a valid access token or method signing if supported"}`

// fixture is a real server on a real socket.
type fixture struct {
	t   *testing.T
	url string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- New(guest.OpenUntouched(nil)).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &fixture{t, "http://" + listener.Addr().String()}
}

// ready is a fixture after /init with the token "secret".
func ready(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.want(f.do("POST", "/init", `{"accessToken":"secret","lifecycleID":"one"}`), 204, "")
	return f
}

func (f *fixture) do(method, path, body string, headers ...string) *http.Response {
	f.t.Helper()
	request, err := http.NewRequest(method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func (f *fixture) want(response *http.Response, status int, body string) {
	f.t.Helper()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	if response.StatusCode != status || string(got) != body {
		f.t.Errorf("got %d %q, want %d %q", response.StatusCode, got, status, body)
	}
}

func frame(message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
}

func rpc(token string) []string {
	return []string{"Content-Type", "application/json", "Connect-Protocol-Version", "1", "X-Access-Token", token}
}

func streaming(token string) []string {
	return []string{"Content-Type", "application/connect+json", "Connect-Protocol-Version", "1", "X-Access-Token", token}
}

func TestHealthNeedsNothing(t *testing.T) {
	f := newFixture(t)
	f.want(f.do("GET", "/health", ""), 204, "")
}

func TestVersionIsInEveryAnswer(t *testing.T) {
	f := ready(t)
	for _, response := range []*http.Response{
		f.do("GET", "/health", ""),
		f.do("POST", "/init", `{}`, "X-Access-Token", "secret"),
		f.do("GET", "/no/such/path", ""),
		f.do("POST", "/process.Process/List", "{}", rpc("secret")...),
	} {
		if got := response.Header.Get("X-Envd-Version"); got != "0.6.13" {
			t.Errorf("%s: %q", response.Status, got)
		}
	}
}

func TestNothingElseIsServedBeforeInit(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/metrics", "/envs", "/files?path=/etc/hosts", "/tunnel?port=1", "/no/such/path"} {
		f.want(f.do("GET", path, ""), 401, unauthorized)
	}
	f.want(f.do("POST", "/process.Process/List", "{}", rpc("")...), 401, unauthorized)
	f.want(f.do("POST", "/filesystem.Filesystem/Stat", `{"path":"/"}`, rpc("")...), 401, unauthorized)
}

func TestTokenIsNeeded(t *testing.T) {
	f := ready(t)
	for _, token := range []string{"", "wrong", "secre", "secrets"} {
		f.want(f.do("POST", "/process.Process/List", "{}", rpc(token)...), 401, unauthorized)
		f.want(f.do("GET", "/envs", "", "X-Access-Token", token), 401, unauthorized)
		f.want(f.do("GET", "/files?path=/etc/hosts", "", "X-Access-Token", token), 401, unauthorized)
		f.want(f.do("POST", "/files/compose", "{}", "X-Access-Token", token), 401, unauthorized)
		f.want(f.do("GET", "/tunnel?port=1", "", "X-Access-Token", token, "Connection", "Upgrade", "Upgrade", "tcp"), 401, unauthorized)
		f.want(f.do("POST", "/sync", "", "X-Access-Token", token), 401, unauthorized)
		f.want(f.do("POST", "/init", `{"accessToken":"mine"}`, "X-Access-Token", token), 401, unauthorized)
	}
	f.want(f.do("POST", "/process.Process/List", "{}", rpc("secret")...), 200, "{}")
	f.want(f.do("POST", "/sync", "", "X-Access-Token", "secret"), 204, "")
	f.want(f.do("GET", "/health", ""), 204, "")
}

func TestStaleTokenIsRefusedAfterInit(t *testing.T) {
	f := ready(t)
	body := `{"accessToken":"next","lifecycleID":"two","envVars":{"A":"1"}}`
	f.want(f.do("POST", "/init", body, "X-Access-Token", "secret"), 204, "")
	f.want(f.do("GET", "/envs", "", "X-Access-Token", "secret"), 401, unauthorized)
	f.want(f.do("GET", "/envs", "", "X-Access-Token", "next"), 200, `{"A":"1"}`)
	// whoever lost the answer asks again with the token that is valid now
	f.want(f.do("POST", "/init", body), 204, "")
}

func TestBadInitChangesNothing(t *testing.T) {
	f := ready(t)
	for body, status := range map[string]int{
		`{"accessToken":"x"`: 400,
		`[]`:                 400,
		`{"accessToken":"x","timestamp":"yesterday"}`:          400,
		`{"accessToken":"x","hostname":"a b"}`:                 400,
		`{"accessToken":"x","machineId":"12"}`:                 400,
		`{"accessToken":"x","envVars":{"A=B":"1"}}`:            400,
		`{"accessToken":"x","defaultWorkdir":"rel"}`:           400,
		`{"accessToken":"x","entropy":"%%"}`:                   400,
		`{"accessToken":"` + strings.Repeat("x", 2<<20) + `"}`: 413,
	} {
		response := f.do("POST", "/init", body, "X-Access-Token", "secret")
		if response.StatusCode != status {
			t.Errorf("%.60s: %d, want %d", body, response.StatusCode, status)
		}
	}
	f.want(f.do("GET", "/envs", "", "X-Access-Token", "secret"), 200, "{}")
}

func TestNewLifeEndsOldConnections(t *testing.T) {
	f := ready(t)
	address := strings.TrimPrefix(f.url, "http://")
	idle, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	reader := bufio.NewReader(idle)
	ask := func() {
		if _, err := fmt.Fprintf(idle, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := http.ReadResponse(reader, nil); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	f.want(f.do("POST", "/init", `{"lifecycleID":"one"}`, "X-Access-Token", "secret"), 204, "")
	ask() // the same life: nothing is closed
	f.want(f.do("POST", "/init", `{"lifecycleID":"two"}`, "X-Access-Token", "secret"), 204, "")
	_ = idle.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := reader.ReadByte(); err == nil || err.(net.Error).Timeout() {
		t.Errorf("the old connection is still open: %v", err)
	}
}

func TestConnectionsFromInsideAreBounded(t *testing.T) {
	f := ready(t)
	http.DefaultClient.CloseIdleConnections()
	var open []net.Conn
	dial := func() (answered bool) {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
		if errors.Is(err, syscall.ECONNRESET) { // already when it was made
			return false
		} else if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = fmt.Fprintf(conn, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil
	}
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	for dial() {
		if len(open) > maxInside {
			t.Fatalf("%d connections are open", len(open))
		}
	}
	if len(open) < maxInside-10 { // of the client above, at most
		t.Errorf("only %d connections are let in", len(open))
	}
	for _, conn := range open[:10] {
		_ = conn.Close()
	}
	for end := time.Now().Add(20 * time.Second); !dial(); {
		if time.Now().After(end) {
			t.Fatal("closed connections do not make room")
		}
	}
}

func TestNewLifeEndsOldTunnels(t *testing.T) {
	f := ready(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = fmt.Fprintf(client, "GET /tunnel?port=%d HTTP/1.1\r\nHost: x\r\nX-Access-Token: secret\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
		listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(client)
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != 101 {
		t.Fatal(response, err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	f.want(f.do("POST", "/init", `{"lifecycleID":"two"}`, "X-Access-Token", "secret"), 204, "")
	for _, end := range []net.Conn{client, server} {
		_ = end.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := end.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an old tunnel is still open: %v", err)
		}
	}
}

// The bodies are those that clients have been seen to send and to accept.
func TestStartOnTheWire(t *testing.T) {
	f := ready(t)
	body := frame(`{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi"]},"stdin":false}`)
	if !strings.HasPrefix(body, "\x00\x00\x00\x00J{") {
		t.Fatalf("the frame differs from the captured one: %q", body)
	}
	response := f.do("POST", "/process.Process/Start", body, streaming("secret")...)
	if got := response.Header.Get("Content-Type"); got != "application/connect+json" {
		t.Errorf("Content-Type %q", got)
	}
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	pid := regexp.MustCompile(`"pid":(\d+)`).FindSubmatch(got)
	if pid == nil {
		t.Fatalf("no pid in %q", got)
	}
	want := frame(fmt.Sprintf(`{"event":{"start":{"pid":%s}}}`, pid[1])) +
		frame(`{"event":{"data":{"stdout":"aGkK"}}}`) +
		frame(`{"event":{"end":{"exited":true,"status":"exit status 0"}}}`) +
		"\x02\x00\x00\x00\x02{}"
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestErrorsOnTheWire(t *testing.T) {
	f := ready(t)
	f.want(f.do("POST", "/filesystem.Filesystem/Stat", `{"path":"/no/such"}`, rpc("secret")...),
		404, `{"code":"not_found","message":"file not found: /no/such"}`)
	f.want(f.do("POST", "/process.Process/SendSignal", `{"process":{"pid":4000000},"signal":"SIGNAL_SIGKILL"}`, rpc("secret")...),
		404, `{"code":"not_found","message":"process with pid 4000000 not found"}`)
	f.want(f.do("POST", "/process.Process/Connect", frame(`{"process":{"pid":4000000}}`), streaming("secret")...),
		200, "\x02"+frame(`{"error":{"code":"not_found","message":"process with pid 4000000 not found"}}`)[1:])
	// base64 of "x:"
	headers := append(streaming("secret"), "Authorization", "Basic eDo=")
	f.want(f.do("POST", "/process.Process/Start", frame(`{"process":{"cmd":"id"}}`), headers...),
		200, "\x02"+frame(`{"error":{"code":"unauthenticated","message":"invalid username: 'x'"}}`)[1:])
	response := f.do("POST", "/process.Process/List", `{"newField":1}`, rpc("secret")...)
	f.want(response, 200, "{}")
}

func TestStatOnTheWire(t *testing.T) {
	f := ready(t)
	response := f.do("POST", "/filesystem.Filesystem/ListDir", `{"path":"/","depth":1}`, rpc("secret")...)
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	entry := regexp.MustCompile(`\{"name":"etc","type":"FILE_TYPE_DIRECTORY","path":"/etc","size":"\d+","mode":493,` +
		`"permissions":"drwxr-xr-x","owner":"root","group":"root","modifiedTime":"[-0-9]+T[:.0-9]+Z"\}`)
	if !entry.Match(got) {
		t.Errorf("no entry of /etc like %s in %s", entry, got)
	}
}

func TestMetrics(t *testing.T) {
	f := ready(t)
	response := f.do("GET", "/metrics", "", "X-Access-Token", "secret")
	got, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "mem_cache", "mem_total_mib", "mem_used_mib", "disk_used",
		"disk_total",
	} {
		if !regexp.MustCompile(`"` + name + `":[0-9.]+[,}]`).Match(got) {
			t.Errorf("no %s in %s", name, got)
		}
	}
}

func TestCORS(t *testing.T) {
	f := ready(t)
	response := f.do("OPTIONS", "/process.Process/List", "", "Origin", "https://example.com",
		"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,x-access-token")
	if response.StatusCode != 204 || response.Header.Get("Access-Control-Allow-Origin") != "*" ||
		response.Header.Get("Access-Control-Allow-Headers") != "authorization,x-access-token" {
		t.Errorf("%d %v", response.StatusCode, response.Header)
	}
	if got := f.do("GET", "/health", "").Header.Get("Access-Control-Allow-Origin"); got != "*" {
		t.Errorf("Access-Control-Allow-Origin %q", got)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	f := ready(t)
	body := `{"path":"` + strings.Repeat("x", maxMessage+1) + `"}`
	response := f.do("POST", "/filesystem.Filesystem/Stat", body, rpc("secret")...)
	if response.StatusCode != 429 { // resource_exhausted
		t.Errorf("status %d", response.StatusCode)
	}
}
