package files

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

const octets = "application/octet-stream"

type fixture struct {
	t   *testing.T
	url string
	dir string
}

// newHandler serves whoever has the token "secret".
func newHandler(t testing.TB) *Handler {
	t.Helper()
	token := "secret"
	machine := guest.OpenUntouched(nil)
	if _, err := machine.Init("", &guest.InitRequest{AccessToken: &token}); err != nil {
		t.Fatal(err)
	}
	return NewHandler(machine)
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	handler := newHandler(t)
	mux := http.NewServeMux()
	mux.Handle("/files", handler)
	mux.HandleFunc("POST /files/compose", handler.Compose) // behind the token in the real server
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &fixture{t, server.URL + "/files", t.TempDir()}
}

func (f *fixture) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fixture) do(method, query string, body io.Reader, headers ...string) (int, http.Header, string) {
	f.t.Helper()
	request, err := http.NewRequest(method, f.url+query, body)
	if err != nil {
		f.t.Fatal(err)
	}
	request.Header.Set(auth.TokenHeader, "secret")
	request.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(got)
}

func at(path string) string { return "?path=" + url.QueryEscape(path) }

func (f *fixture) put(path, content string, headers ...string) (int, string) {
	f.t.Helper()
	status, _, body := f.do("POST", at(path), strings.NewReader(content), append([]string{"Content-Type", octets}, headers...)...)
	return status, body
}

func (f *fixture) write(name, content string) string {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), []byte(content), 0o644); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

func (f *fixture) wantContent(path, want string) {
	f.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		f.t.Errorf("%s holds %d bytes (%.40q) %v, want %d", path, len(got), got, err, len(want))
	}
}

func TestDownload(t *testing.T) {
	f := newFixture(t)
	path := f.write("a b.txt", "0123456789")
	status, header, body := f.do("GET", at(path), nil)
	if status != 200 || body != "0123456789" || header.Get("Content-Type") != octets ||
		header.Get("Content-Disposition") != `inline; filename="a b.txt"` || header.Get("Content-Length") != "10" ||
		header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%d %q %v", status, body, header)
	}
	if status, _, body := f.do("GET", at(path), nil, "Range", "bytes=2-4"); status != 206 || body != "234" {
		t.Errorf("range: %d %q", status, body)
	}
	if status, _, body := f.do("GET", at(f.write("empty", "")), nil); status != 200 || body != "" {
		t.Errorf("empty: %d %q", status, body)
	}
	if status, header, body := f.do("HEAD", at(path), nil); status != 200 || body != "" || header.Get("Content-Length") != "10" {
		t.Errorf("HEAD: %d %q %v", status, body, header)
	}
}

func TestDownloadOfKernelFiles(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{
		"/proc/sys/kernel/random/boot_id", "/proc/version", "/sys/devices/system/cpu/online",
		"/proc/kallsyms", // of many pages
	} {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if status, _, body := f.do("GET", at(path), nil); status != 200 || body != string(want) {
			t.Errorf("%s: %d %q", path, status, body)
		}
	}
}

// An error after the head cannot be told by a status; a clean end would pass for the whole file.
func TestDownloadThatFailsIsAborted(t *testing.T) {
	f := newFixture(t)
	request, err := http.NewRequest("GET", f.url+at("/proc/self/mem"), nil) // nothing is mapped at its beginning
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set(auth.TokenHeader, "secret")
	for _, encoding := range []string{"identity", "gzip"} {
		request.Header.Set("Accept-Encoding", encoding)
		response, err := http.DefaultTransport.RoundTrip(request)
		if err == nil {
			_, err = io.ReadAll(response.Body)
			_ = response.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: a clean end", encoding)
		}
	}
}

func TestDownloadErrors(t *testing.T) {
	f := newFixture(t)
	if err := syscall.Mkfifo(f.path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := f.write("file", "x")
	for path, want := range map[string]string{
		f.path("nope"): fmt.Sprintf(`404 {"code":404,"message":"path '%s' does not exist"}`, f.path("nope")),
		f.dir:          fmt.Sprintf(`400 {"code":400,"message":"path '%s' is a directory"}`, f.dir),
		f.path("fifo"): fmt.Sprintf(`400 {"code":400,"message":"path '%s' is not a regular file"}`, f.path("fifo")),
		file + "/x":    fmt.Sprintf(`400 {"code":400,"message":"open %s/x: not a directory"}`, file),
		"a\x00b":       `400 {"code":400,"message":"invalid path: it contains a NUL byte"}`,
	} {
		status, _, body := f.do("GET", at(path), nil)
		if got := fmt.Sprintf("%d %s", status, body); got != want {
			t.Errorf("%q: got %s, want %s", path, got, want)
		}
	}
	if status, _, _ := f.do("DELETE", at(file), nil); status != 405 {
		t.Errorf("DELETE: %d", status)
	}
}

func TestEncodings(t *testing.T) {
	f := newFixture(t)
	path := f.write("a", strings.Repeat("content ", 1000))
	for accept, want := range map[string]string{
		"": "identity", "gzip": "gzip", "gzip, deflate": "identity", "gzip, identity;q=0": "gzip", "*;q=0, gzip": "gzip",
		"br": "identity", "gzip;q=0": "identity", "identity;q=0": "406", "br, *;q=0": "406", "gzip;q=x": "400",
	} {
		status, header, body := f.do("GET", at(path), nil, "Accept-Encoding", accept)
		got := header.Get("Content-Encoding")
		switch {
		case status != 200:
			got = fmt.Sprint(status)
		case got == "":
			got = "identity"
		case got == "gzip":
			reader, err := gzip.NewReader(strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if plain, err := io.ReadAll(reader); err != nil || string(plain) != strings.Repeat("content ", 1000) {
				t.Errorf("gzip: %d bytes, %v", len(plain), err)
			}
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", accept, got, want)
		}
	}
}

func TestSignedLinks(t *testing.T) {
	f := newFixture(t)
	path := f.write("a", "x")
	sign := func(operation string, expiration string) string {
		query := url.Values{"path": {path}, "signature": {auth.Sign(path, operation, "", "secret", expiration)}}
		if expiration != "" {
			query.Set("signature_expiration", expiration)
		}
		return "?" + query.Encode()
	}
	soon := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	for query, want := range map[string]string{
		sign("read", ""):     "200 x",
		sign("read", soon):   "200 x",
		sign("write", ""):    `401 {"code":401,"message":"invalid signature"}`,
		sign("read", "1000"): `401 {"code":401,"message":"signature is already expired"}`,
	} {
		status, _, body := f.do("GET", query, nil, auth.TokenHeader, "")
		if got := fmt.Sprintf("%d %s", status, body); got != want {
			t.Errorf("%s: got %s, want %s", query, got, want)
		}
	}
	if status, _, _ := f.do("POST", sign("write", soon), strings.NewReader("new"), auth.TokenHeader, "", "Content-Type", octets); status != 200 {
		t.Errorf("write: %d", status)
	}
	f.wantContent(path, "new")
}

func TestUploadOfOctets(t *testing.T) {
	f := newFixture(t)
	path := f.path("new/dir/a.txt")
	status, body := f.put(path, "content")
	if want := fmt.Sprintf(`[{"path":"%s","name":"a.txt","type":"file"}]`, path); status != 200 || body != want {
		t.Errorf("%d %s, want %s", status, body, want)
	}
	f.wantContent(path, "content")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v %v", info, err)
	}
	for _, content := range []string{"shorter", "", strings.Repeat("large ", 100_000), "x"} {
		if status, body := f.put(path, content); status != 200 {
			t.Errorf("%d %s", status, body)
		}
		f.wantContent(path, content)
	}
}

func TestUploadBelongsToTheUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing the owner needs root")
	}
	f := newFixture(t)
	nobody, err := users.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := f.path("new/a")
	if status, _, body := f.do("POST", at(path)+"&username=nobody", strings.NewReader("x"), "Content-Type", octets); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	for _, made := range []string{path, filepath.Dir(path)} {
		info, err := os.Stat(made)
		if err != nil {
			t.Fatal(err)
		}
		if raw := info.Sys().(*syscall.Stat_t); raw.Uid != nobody.UID || raw.Gid != nobody.GID {
			t.Errorf("%s belongs to %d:%d", made, raw.Uid, raw.Gid)
		}
	}
	if status, _, body := f.do("GET", at(path)+"&username=nosuchuser", nil); status != 401 ||
		body != `{"code":401,"message":"invalid username: 'nosuchuser'"}` {
		t.Errorf("%d %s", status, body)
	}
}

func form(t *testing.T, parts ...string) (io.Reader, string) {
	t.Helper()
	var body bytes.Buffer
	writer := multipart.NewWriter(&body)
	for i := 0; i < len(parts); i += 2 {
		header := textproto.MIMEHeader{"Content-Disposition": {parts[i]}}
		part, err := writer.CreatePart(header)
		if err == nil {
			_, err = io.WriteString(part, parts[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return &body, writer.FormDataContentType()
}

func TestUploadOfForms(t *testing.T) {
	f := newFixture(t)
	named := func(name string) string { return fmt.Sprintf(`form-data; name="file"; filename="%s"`, f.path(name)) }
	body, contentType := form(t, named("d/one"), "1", `form-data; name="other"`, "ignored", named("two"), "22")
	status, _, answer := f.do("POST", "", body, "Content-Type", contentType)
	want := fmt.Sprintf(`[{"path":"%s","name":"one","type":"file"},{"path":"%s","name":"two","type":"file"}]`,
		f.path("d/one"), f.path("two"))
	if status != 200 || answer != want {
		t.Errorf("%d %s, want %s", status, answer, want)
	}
	f.wantContent(f.path("d/one"), "1")
	f.wantContent(f.path("two"), "22")

	body, contentType = form(t, `form-data; name="file"`, "3")
	if status, _, answer := f.do("POST", at(f.path("three")), body, "Content-Type", contentType); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	f.wantContent(f.path("three"), "3")

	body, contentType = form(t, named("four"), "4", named("./four"), "5")
	if status, _, answer := f.do("POST", "", body, "Content-Type", contentType); status != 400 || !strings.Contains(answer, "twice") {
		t.Errorf("%d %s", status, answer)
	}
	body, contentType = form(t)
	if status, _, answer := f.do("POST", "", body, "Content-Type", contentType); status != 200 || answer != "[]" {
		t.Errorf("%d %s", status, answer)
	}
}

func TestUploadOfGzip(t *testing.T) {
	f := newFixture(t)
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	_, _ = io.WriteString(writer, "content")
	_ = writer.Close()
	if status, body := f.put(f.path("a"), packed.String(), "Content-Encoding", "gzip"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	f.wantContent(f.path("a"), "content")
	for _, cut := range []int{3, packed.Len() - 4} {
		if status, _ := f.put(f.path("a"), packed.String()[:cut], "Content-Encoding", "gzip"); status != 400 {
			t.Errorf("cut at %d: %d", cut, status)
		}
	}
	f.wantContent(f.path("a"), "content")
}

func TestUploadErrors(t *testing.T) {
	f := newFixture(t)
	file := f.write("file", "x")
	for path, want := range map[string]int{"": 400, f.dir: 400, file + "/x": 400, "/dev/null": 400} {
		if status, body := f.put(path, "content"); status != want {
			t.Errorf("%q: %d %s", path, status, body)
		}
	}
	if status, _, _ := f.do("POST", at(file), strings.NewReader("y"), "Content-Type", "text/plain"); status != 400 {
		t.Errorf("text/plain: %d", status)
	}
	for _, body := range []string{"y", "", "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nhalf"} {
		if status, _, _ := f.do("POST", at(file), strings.NewReader(body), "Content-Type", "multipart/form-data; boundary=x"); status != 400 {
			t.Errorf("%q: %d", body, status)
		}
	}
	f.wantContent(file, "x")
}

func TestMetadataIsReplaced(t *testing.T) {
	f := newFixture(t)
	path := f.path("a")
	if err := unix.Setxattr(f.dir, "user.e2b.probe", []byte("x"), 0); err != nil {
		t.Skipf("no user attributes here: %v", err)
	}
	status, body := f.put(path, "x", "X-Metadata-Owner", "me", "X-Metadata-Kind", "b")
	if want := fmt.Sprintf(`[{"path":"%s","name":"a","type":"file","metadata":{"kind":"b","owner":"me"}}]`, path); status != 200 || body != want {
		t.Errorf("%d %s, want %s", status, body, want)
	}
	if status, _ := f.put(path, "x", "X-Metadata-Kind", "c"); status != 200 {
		t.Error(status)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(path, "user.e2b.kind", value); err != nil || string(value[:n]) != "c" {
		t.Errorf("%q %v", value[:max(n, 0)], err)
	}
	if _, err := unix.Getxattr(path, "user.e2b.owner", value); err != unix.ENODATA {
		t.Errorf("the old key is still there: %v", err)
	}
	for _, bad := range [][]string{{"X-Metadata-K", "\u00e9"}, {"X-Metadata-" + strings.Repeat("k", 247), "v"}, {"X-Metadata-K", strings.Repeat("v", 4096)}} {
		if status, _ := f.put(path, "y", bad...); status != 400 {
			t.Errorf("%.20q: %d", bad, status)
		}
	}
	f.wantContent(path, "x")
}

// breakOff begins an upload of 100 MiB and ends it after sent bytes.
func (f *fixture) breakOff(path string, sent int) {
	f.t.Helper()
	target, err := url.Parse(f.url)
	if err != nil {
		f.t.Fatal(err)
	}
	conn, err := net.Dial("tcp", target.Host)
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /files%s HTTP/1.1\r\nHost: x\r\nX-Access-Token: secret\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		at(path), octets, 100<<20, strings.Repeat("n", sent))
	if err != nil {
		f.t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, conn) // the server is done when it closes
}

func TestBrokenUploadLeavesTheOldFile(t *testing.T) {
	f := newFixture(t)
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	for _, sent := range []int{0, 100, 300_000} {
		path := f.write("old", "old content")
		f.breakOff(path, sent)
		f.wantContent(path, "old content")
		f.breakOff(f.path("new"), sent)
		if _, err := os.Stat(f.path("new")); err == nil {
			t.Errorf("half of a new file is left after %d bytes", sent)
		}
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left where uploads wait: %v %v", left, err)
	}
}

// A client that sends first and reads then learns why it was refused.
func TestRefusalsReachASendingClient(t *testing.T) {
	f := newFixture(t)
	target, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{f.dir, ""} {
		conn, err := net.Dial("tcp", target.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = fmt.Fprintf(conn, "POST /files%s HTTP/1.1\r\nHost: x\r\nX-Access-Token: secret\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
			at(path), octets, 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		for range 16 {
			if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != 400 {
			t.Errorf("%q: %v %v", path, response, err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	for _, system := range []string{"tmpfs", "ext4"} {
		t.Run(system, func(t *testing.T) {
			f := newFixture(t)
			f.mountSmall(system)
			large := strings.Repeat("x", 8<<20)
			if status, body := f.put(f.path("new"), large); status != 507 {
				t.Errorf("new: %d %s", status, body)
			}
			if _, err := os.Stat(f.path("new")); err == nil {
				t.Error("the part that fitted is left")
			}
			path := f.write("old", "old content")
			if status, body := f.put(path, large); status != 507 {
				t.Errorf("old: %d %s", status, body)
			}
			f.wantContent(path, "old content")
			info, err := os.Stat(path)
			if err != nil || blocks(info)*512 > 4096 {
				t.Errorf("the old file keeps %d blocks: %v", blocks(info), err)
			}
		})
	}
}

// mountSmall puts a file system of less than 8 MiB in the place of the fixture's directory.
func (f *fixture) mountSmall(system string) {
	f.t.Helper()
	if os.Geteuid() != 0 {
		f.t.Skip("mounting needs root")
	}
	mount := []string{"-t", "tmpfs", "-o", "size=256k", "tmpfs", f.dir}
	if system == "ext4" {
		image := filepath.Join(f.t.TempDir(), "image")
		if output, err := exec.Command("mke2fs", "-q", "-t", "ext4", image, "4M").CombinedOutput(); err != nil {
			f.t.Skipf("mke2fs: %v %s", err, output)
		}
		mount = []string{"-o", "loop", image, f.dir}
	}
	if output, err := exec.Command("mount", mount...).CombinedOutput(); err != nil {
		f.t.Skipf("mount: %v %s", err, output)
	}
	f.t.Cleanup(func() { _ = unix.Unmount(f.dir, 0) })
}
