package files

import (
	"io"
	"net/http"
	"os"
	"runtime"
	"testing"
)

// allocated is what everything in this process has taken so far, the client of the test included.
func allocated() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.TotalAlloc)
}

// zeros is a body of a given size that takes no memory.
type zeros struct{ left int64 }

func (z *zeros) Read(into []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(into)), z.left))
	clear(into[:n])
	z.left -= int64(n)
	return n, nil
}

// Contents of any size pass in the memory of a few buffers.
func TestContentsPassInLittleMemory(t *testing.T) {
	const size, little = 64 << 20, 8 << 20
	f := newFixture(t)
	path := f.path("large")
	for _, what := range []string{"new", "old"} {
		before := allocated()
		if status, _, body := f.do("POST", at(path), &zeros{size}, "Content-Type", octets); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		if taken := allocated() - before; taken > little {
			t.Errorf("an upload to a %s file took %d bytes", what, taken)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		t.Fatal(info, err)
	}
	for _, encoding := range []string{"identity", "gzip"} {
		before := allocated()
		request, err := http.NewRequest("GET", f.url+at(path), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Access-Token", "secret")
		request.Header.Set("Accept-Encoding", encoding)
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		length, err := io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil || encoding == "identity" && length != size {
			t.Errorf("%s: %d bytes, %v", encoding, length, err)
		}
		if taken := allocated() - before; taken > little {
			t.Errorf("a download as %s took %d bytes", encoding, taken)
		}
	}
	before := allocated()
	if status, body := f.compose(f.path("composed"), path); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if taken := allocated() - before; taken > little {
		t.Errorf("composing took %d bytes", taken)
	}
}
