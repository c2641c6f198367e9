package auth

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func FuzzUsername(f *testing.F) {
	for _, seed := range []string{"", "Basic dXNlcjo=", "basic  dXNlcjpwdw== ", "Basic", "Basic ", "Basic Og==", "Bearer x", "Basic dXNlcg==", "Basic ÿ"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		name, err := Username(http.Header{"Authorization": {value}})
		if err != nil {
			if !errors.Is(err, ErrBasic) || name != "" {
				t.Fatalf("%q: %q %v", value, name, err)
			}
			return
		}
		if strings.Contains(name, ":") {
			t.Fatalf("%q gives %q", value, name)
		}
		again, err := Username(http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"))}})
		if err != nil || again != name {
			t.Fatalf("%q comes back as %q %v", name, again, err)
		}
	})
}

// No query is admitted but one with the signature of exactly what it asks for.
func FuzzSignature(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	sign := func(path, user, expiration string) string {
		return url.Values{
			"path": {path}, "username": {user}, "signature_expiration": {expiration},
			"signature": {Sign(path, "read", user, "token", expiration)},
		}.Encode()
	}
	for _, seed := range []string{
		"", "path=/a&signature=v1_x", sign("/a b", "user", ""), sign("", "", "1700000001"), sign("/a", "", "1600000000"),
		sign("/a", "", "0x7fffffff"), sign("/a", "", "99999999999999999999"), sign("/a:read", "", ""), "signature=%zz;path=/a",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		query, _ := url.ParseQuery(raw)
		err := CheckFiles(http.Header{}, query, "read", "token", now)
		want := Sign(query.Get("path"), "read", query.Get("username"), "token", query.Get("signature_expiration"))
		if signed := query.Get("signature") == want; err == nil && !signed {
			t.Fatalf("%q is admitted", raw)
		} else if signed && query.Get("signature_expiration") == "" && err != nil {
			t.Fatalf("%q is refused: %v", raw, err)
		}
		if CheckFiles(http.Header{}, query, "write", "token", now) == nil {
			t.Fatalf("%q is admitted for writing", raw)
		}
	})
}
