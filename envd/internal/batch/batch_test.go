package batch

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHold(t *testing.T) {
	next := make(chan struct{})
	server := httptest.NewServer(Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		say := func(text string) {
			_, _ = io.WriteString(w, text)
			w.(http.Flusher).Flush()
		}
		say("at once\n")
		<-next
		release := Hold(r.Context())
		for range 10_000 { // more than any buffer holds
			say("held\n")
		}
		release()
		<-next
		release = Hold(r.Context())
		say("last\n")
		release()
		<-next
		Hold(r.Context())() // nothing to flush
	})))
	defer server.Close()
	response, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	want := func(text string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != text {
			t.Fatalf("got %q %v, want %q", lines.Text(), lines.Err(), text)
		}
	}
	want("at once")
	next <- struct{}{}
	for range 10_000 {
		want("held")
	}
	next <- struct{}{}
	want("last")
	close(next)
	if lines.Scan() {
		t.Errorf("got %q", lines.Text())
	}
}

func TestFlushesAreFewer(t *testing.T) {
	recorder := &counter{ResponseRecorder: httptest.NewRecorder()}
	Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		release := Hold(r.Context())
		for range 100 {
			w.(http.Flusher).Flush()
		}
		release()
	})).ServeHTTP(recorder, httptest.NewRequest("GET", "/", nil))
	if recorder.flushes != 1 {
		t.Errorf("%d flushes", recorder.flushes)
	}
	Hold(t.Context())() // of a request that is not held
}

type counter struct {
	*httptest.ResponseRecorder
	flushes int
}

func (c *counter) Flush() { c.flushes++ }
