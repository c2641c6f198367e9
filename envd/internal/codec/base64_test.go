package codec

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"testing"
)

func TestBase64(t *testing.T) {
	data := make([]byte, 400)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	for length := range data {
		want := base64.StdEncoding.AppendEncode([]byte("before"), data[:length])
		if got := appendBase64([]byte("before"), data[:length]); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %s, want %s", length, got, want)
		}
	}
}

func FuzzBase64(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\x00\x10\x83\x10\x51\x87\x20\x92\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := string(appendBase64(nil, data))
		if want := base64.StdEncoding.EncodeToString(data); got != want {
			t.Errorf("%x: got %s, want %s", data, got, want)
		}
	})
}

func BenchmarkBase64(b *testing.B) {
	data := make([]byte, 64<<10)
	into := make([]byte, 0, base64.StdEncoding.EncodedLen(len(data)))
	for name, encode := range map[string]func(into, data []byte) []byte{
		"own": appendBase64, "standard": base64.StdEncoding.AppendEncode,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				into = encode(into[:0], data)
			}
		})
	}
}
