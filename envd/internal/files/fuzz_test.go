package files

import (
	"bytes"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"strings"
	"testing"

	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

// wantClientError fails on errors that say the server were at fault.
func wantClientError(t *testing.T, err error) {
	t.Helper()
	if status := statusOf(err); status < 400 || status >= 500 {
		t.Fatalf("status %d: %v", status, err)
	}
}

// What a name says survives the header, directories included.
func FuzzDisposition(f *testing.F) {
	for _, seed := range []string{
		"", `form-data; name="file"; filename="/home/user/a b.txt"`, `form-data; name=file; filename=a`, `form-data; name="file"; filename="a\"b\\c"`,
		`form-data; name="file"; filename*=UTF-8''%e2%82%ac`, `form-data; name="file"; filename="../../etc/passwd"`, `;;`, `form-data; name="x"; name="y"`,
		`form-data; name="file"; filename*0="a"; filename*1="b"`, "form-data; name=\"file\"; filename=\"\xff\x00\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if _, _, err := parseDisposition(value); err != nil {
			wantClientError(t, err)
		}
		// the form of the clients' libraries
		name := strings.Map(func(r rune) rune {
			if r < 0x20 || r == 0x7f || r == '"' || r == '\\' || r == 0xfffd {
				return '_'
			}
			return r
		}, value)
		field, file, err := parseDisposition(`form-data; name="file"; filename="` + name + `"`)
		if err != nil || field != "file" || file != name {
			t.Fatalf("%q comes back as %q %q %v", name, field, file, err)
		}
	})
}

// stored is an upload that keeps what it gets.
func stored(into map[string]string) *upload {
	user := users.User{Name: "user", Home: "/home/user"}
	return &upload{
		resolve: func(path string) (string, error) {
			resolved, err := user.Resolve(path, "")
			if err != nil {
				return "", fail(http.StatusBadRequest, "%w", err)
			}
			return resolved, nil
		},
		store: func(body io.Reader, path string) error {
			content, err := io.ReadAll(body)
			into[path] = string(content)
			return err
		},
		seen: map[string]bool{},
	}
}

func FuzzMultipart(f *testing.F) {
	part := "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/a\"\r\n\r\ncontent\r\n"
	for _, seed := range []string{
		"", "--x--\r\n", part + "--x--\r\n", part, part + part + "--x--", "--x\r\n\r\n\r\n--x--", "--x\r\nContent-Disposition: form-data\r\n\r\n--x--",
		"--x\nContent-Disposition: form-data; name=file\n\nlf only\n--x--\n", "--x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41\r\n--x--",
		strings.Repeat("--x\r\nA: b\r\n\r\n\r\n", 50) + "--x--",
	} {
		f.Add([]byte(seed), "")
		f.Add([]byte(seed), "/given")
	}
	f.Fuzz(func(t *testing.T, body []byte, path string) {
		contents := map[string]string{}
		job := stored(contents)
		reader := multipart.NewReader(checked{bytes.NewReader(body)}, "x")
		if err := job.parts(reader, path); err != nil {
			wantClientError(t, err)
			return
		}
		if len(job.written) != len(contents) {
			t.Fatalf("%v written, %v stored", job.written, contents)
		}
		for _, one := range job.written {
			if _, ok := contents[one.Path]; !ok || !strings.HasPrefix(one.Path, "/") {
				t.Fatalf("%v is not stored", one)
			}
		}
		// the same through a writer of such bodies
		var packed bytes.Buffer
		writer := multipart.NewWriter(&packed)
		header := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="/round/trip"`}}
		out, err := writer.CreatePart(header)
		if err == nil {
			_, err = out.Write(body)
		}
		if err = errors.Join(err, writer.Close()); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(body, []byte(writer.Boundary())) {
			return
		}
		contents = map[string]string{}
		err = stored(contents).parts(multipart.NewReader(&packed, writer.Boundary()), "")
		if err != nil || contents["/round/trip"] != string(body) {
			t.Fatalf("%q comes back as %q %v", body, contents, err)
		}
	})
}

func FuzzAcceptEncoding(f *testing.F) {
	for _, seed := range []string{"", "gzip", "gzip, identity;q=0", "*;q=0", "identity;q=0, gzip;q=0", "gzip;q=x", ";,;", "GZIP ; q=1", "gzip;q=NaN", "gzip;q=1e999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		encoding, err := chooseEncoding(accept)
		if err != nil {
			wantClientError(t, err)
		} else if encoding != "gzip" && encoding != "identity" {
			t.Fatalf("%q gives %q", accept, encoding)
		}
	})
}

// Whatever the header says, a range is a part of the file, and the rest is refused.
func FuzzRange(f *testing.F) {
	for _, seed := range []string{
		"", "bytes=0-0", "bytes=2-", "bytes=-3", "bytes=9-", "bytes=10-", "bytes=5-2", "bytes=0-0,2-3", "bytes=0-99999999999999999999",
		"bytes=--1", "bytes=", "lines=1-2", "bytes=0-0," + strings.Repeat("1-1,", 100), "bytes=\x00", "bytes=-0", "bytes= 1 - 2 ",
	} {
		f.Add(seed)
	}
	const content = "0123456789"
	path := f.TempDir() + "/file"
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		f.Fatal(err)
	}
	handler := newHandler(f)
	f.Fuzz(func(t *testing.T, value string) {
		request := httptest.NewRequest("GET", "/files"+at(path), nil)
		request.Header.Set("X-Access-Token", "secret")
		request.Header.Set("Range", value)
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		body := answer.Body.String()
		switch answer.Code {
		case 200:
			if body != content {
				t.Fatalf("%q: %q", value, body)
			}
		case 206:
			if !strings.HasPrefix(answer.Header().Get("Content-Type"), "multipart/byteranges") && !strings.Contains(content, body) {
				t.Fatalf("%q: %q", value, body)
			}
		case 416:
		default:
			t.Fatalf("%q: %d", value, answer.Code)
		}
	})
}

func FuzzCompose(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"source_paths":["/a","/b"],"destination":"/c","username":"user"}`, `{"source_paths":"x"}`, `{"source_paths":[null]}`,
		`{"source_paths":[],"destination":"/c"}`, `{"source_paths":["/a"],"destination":1}`, "[[[[", "null", `{"SOURCE_PATHS":["x"],"Destination":"y"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		request, err := parseCompose(strings.NewReader(body))
		if err != nil {
			wantClientError(t, err)
		} else if len(request.SourcePaths) == 0 || request.Destination == "" {
			t.Fatalf("%q gives %v", body, request)
		}
	})
}

// A gzip body that is not one is the client's fault, wherever it breaks.
func FuzzGzipBody(f *testing.F) {
	for _, seed := range []string{"", "\x1f\x8b", "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff\x01\x00\x00\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00", "plain"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := httptest.NewRequest("POST", "/files", bytes.NewReader(body))
		request.Header.Set("Content-Encoding", "gzip")
		plain, err := decoded(httptest.NewRecorder(), request)
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(plain, 1<<20))
		}
		if err != nil {
			wantClientError(t, err)
		}
	})
}
