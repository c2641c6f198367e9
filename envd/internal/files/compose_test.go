package files

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

func (f *fixture) compose(destination string, sources ...string) (int, string) {
	f.t.Helper()
	body, err := json.Marshal(composeRequest{SourcePaths: sources, Destination: destination})
	if err != nil {
		f.t.Fatal(err)
	}
	status, _, answer := f.do("POST", "/compose", strings.NewReader(string(body)), "Content-Type", "application/json")
	return status, answer
}

func TestCompose(t *testing.T) {
	f := newFixture(t)
	large := strings.Repeat("large ", 100_000)
	for _, old := range []string{"", "something that is longer", strings.Repeat("old ", 500_000)} {
		destination := f.path("new/whole")
		if old != "" {
			destination = f.write("whole", old)
		}
		sources := []string{f.write("1", "one "), f.write("2", ""), f.write("3", large), f.write("4", "end")}
		status, answer := f.compose(destination, sources...)
		if want := fmt.Sprintf(`{"path":"%s","name":"whole","type":"file"}`, destination); status != 200 || answer != want {
			t.Errorf("%d %s, want %s", status, answer, want)
		}
		f.wantContent(destination, "one "+large+"end")
		for _, source := range sources {
			if _, err := os.Stat(source); err == nil {
				t.Errorf("%s is still there", source)
			}
		}
	}
}

func TestComposeRefusals(t *testing.T) {
	f := newFixture(t)
	part, old := f.write("part", "content"), f.write("old", "old content")
	if err := os.Link(part, f.path("same")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(f.path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		destination string
		sources     []string
		status      int
	}{
		{old, nil, 400},
		{"", []string{part}, 400},
		{part, []string{part}, 400},
		{f.dir + "/./part", []string{part}, 400},
		{f.path("same"), []string{part}, 400},
		{old, []string{part, f.dir}, 400},
		{old, []string{part, f.path("fifo")}, 400},
		{old, []string{part, f.path("nope")}, 404},
		{old, []string{part, "a\x00"}, 400},
		{f.dir, []string{part}, 400},
		{part + "/below", []string{part}, 400},
	} {
		if status, answer := f.compose(test.destination, test.sources...); status != test.status {
			t.Errorf("%q from %q: %d %s, want %d", test.destination, test.sources, status, answer, test.status)
		}
	}
	for _, body := range []string{"", "{", `{"source_paths":"x"}`, `{"source_paths":["` + strings.Repeat("x", 2<<20) + `"]}`} {
		if status, _, answer := f.do("POST", "/compose", strings.NewReader(body)); status != 400 && status != 413 {
			t.Errorf("%.20s: %d %s", body, status, answer)
		}
	}
	f.wantContent(part, "content")
	f.wantContent(old, "old content")
}

func TestComposeOnAFullDisk(t *testing.T) {
	f := newFixture(t)
	f.mountSmall("tmpfs")
	part := f.write("part", strings.Repeat("x", 150<<10))
	for _, destination := range []string{f.path("new"), f.write("old", "old content")} {
		if status, answer := f.compose(destination, part); status != 507 {
			t.Errorf("%s: %d %s", destination, status, answer)
		}
	}
	f.wantContent(part, strings.Repeat("x", 150<<10))
	f.wantContent(f.path("old"), "old content")
	if _, err := os.Stat(f.path("new")); err == nil {
		t.Error("the part that fitted is left")
	}
}
