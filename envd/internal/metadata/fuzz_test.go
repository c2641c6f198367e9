package metadata

import (
	"bufio"
	"errors"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
)

func FuzzFromHeader(f *testing.F) {
	for _, seed := range []string{
		"", "X-Metadata-Kind: b", "x-metadata-KEY: value\r\nX-Metadata-: v", "X-Metadata-K: \xc3\xa9", "X-Metadata-K: a\tb",
		"X-Metadata-" + strings.Repeat("k", 247) + ": v", "X-Metadata-K: " + strings.Repeat("v", 4096), "X-Metadata-A: 1\r\nX-Metadata-A: 2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(raw + "\r\n\r\n"))).ReadMIMEHeader()
		if err != nil {
			return
		}
		found, err := FromHeader(http.Header(header))
		if err != nil {
			if !errors.Is(err, ErrInvalid) || found != nil {
				t.Fatalf("%q: %v %v", raw, found, err)
			}
			return
		}
		total := 0
		for key, value := range found {
			total += len(key) + len(value)
			if key == "" || len(key) > 246 || key != strings.ToLower(key) || strings.ContainsAny(key, "\x00 ") {
				t.Fatalf("%q: key %q", raw, key)
			}
			if strings.Trim(value, " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~") != "" {
				t.Fatalf("%q: value %q", raw, value)
			}
		}
		if total > 4096 {
			t.Fatalf("%q: %d bytes", raw, total)
		}
	})
}
