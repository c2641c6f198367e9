package httpd

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
)

// Whoever has no token gets nothing but refusals, however the request is put; and refusals have their form.
func FuzzRequestsWithoutToken(f *testing.F) {
	envelope := string(binary.BigEndian.AppendUint32([]byte{0}, 2)) + "{}"
	for _, seed := range [][4]string{
		{"GET", "/metrics", "", ""}, {"POST", "/process.Process/Start", "application/connect+json", envelope}, {"POST", "/init", "application/json", `{"accessToken":"mine"}`},
		{"POST", "//init", "", "{}"}, {"POST", "/%69nit", "", "{}"}, {"GET", "/files?path=/etc/shadow&signature=v1_x", "", ""}, {"POST", "/files?path=/tmp/x", "application/octet-stream", "x"},
		{"GET", "/tunnel?port=22", "", ""}, {"GET", "/health/../metrics", "", ""}, {"PUT", "/files", "", ""}, {"POST", "/filesystem.Filesystem/Stat", "application/proto", "\n\x01/"},
		{"OPTIONS", "/files", "", ""}, {"GET", "/process.Process/List?connect=v1&encoding=json&message={}", "", ""}, {"POST", "/files/compose", "application/json", "{}"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	machine := guest.OpenUntouched(nil)
	token := "secret"
	if _, err := machine.Init("", &guest.InitRequest{AccessToken: &token}); err != nil {
		f.Fatal(err)
	}
	handler := New(machine).Handler()
	f.Fuzz(func(t *testing.T, method, target, contentType, body string) {
		request, err := http.NewRequest(method, "http://envd"+target, strings.NewReader(body))
		if err != nil || strings.Contains(target, token) || strings.Contains(body, token) {
			return
		}
		request.Header.Set("Content-Type", contentType)
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		switch {
		case answer.Code < 300 && (request.URL.Path == "/health" || method == http.MethodOptions):
		case answer.Code < 300:
			t.Fatalf("%s %s is served: %d %s", method, target, answer.Code, answer.Body)
		case answer.Code == 401 && method != http.MethodHead:
			var refusal struct {
				Code    int
				Message string
			}
			content, _ := io.ReadAll(answer.Body)
			if err := json.Unmarshal(content, &refusal); err != nil || refusal.Code != 401 || refusal.Message == "" {
				t.Fatalf("%s %s: %q %v", method, target, content, err)
			}
		}
		if state := machine.State(); state.AccessToken != token {
			t.Fatalf("%s %s %q changed the token", method, target, body)
		}
	})
}
