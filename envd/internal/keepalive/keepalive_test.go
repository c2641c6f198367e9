package keepalive

import (
	"net/http"
	"testing"
	"time"
)

func FuzzInterval(f *testing.F) {
	for _, seed := range []string{"", "0", "1", "50", "65535", "65536", "-1", "1.5", "x", " 5", "+5"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := Interval(http.Header{"Keepalive-Ping-Interval": {value}})
		if got < time.Second || got > 65535*time.Second {
			t.Fatalf("%q gives %v", value, got)
		}
	})
}

func TestInterval(t *testing.T) {
	for value, want := range map[string]time.Duration{"50": 50 * time.Second, "": Default, "0": Default, "soon": Default} {
		if got := Interval(http.Header{"Keepalive-Ping-Interval": {value}}); got != want {
			t.Errorf("%q gives %v, want %v", value, got, want)
		}
	}
}
