package auth

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"
)

// The values come from an independent computation with sha256sum and base64.
func TestSign(t *testing.T) {
	for _, test := range []struct{ path, operation, user, token, expiration, want string }{
		{"/home/user/a.txt", "read", "user", "tok", "", "v1_p0WqJQYCLtO6YX+e4h7VbpybRsdJbMbIw7clYpulIJk"},
		{"", "write", "", "tok", "1700000000", "v1_x45ANX4EfBtSl96GslknFrKgW957ChK4XZIHbM1Zyfo"},
	} {
		if got := Sign(test.path, test.operation, test.user, test.token, test.expiration); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

func TestCheckFiles(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	signed := func(operation string, expiration int64) url.Values {
		text := ""
		if expiration != 0 {
			text = strconv.FormatInt(expiration, 10)
		}
		query := url.Values{"path": {"/a b"}, "username": {"user"}}
		query.Set("signature", Sign("/a b", operation, "user", "tok", text))
		if text != "" {
			query.Set("signature_expiration", text)
		}
		return query
	}
	tampered := signed("read", 0)
	tampered.Set("path", "/etc/shadow")
	prolonged := signed("read", 1_600_000_000)
	prolonged.Set("signature_expiration", "1800000000")
	for name, test := range map[string]struct {
		token string
		query url.Values
		want  error
	}{
		"token":           {"tok", url.Values{}, nil},
		"wrong token":     {"tik", signed("read", 0), ErrUnauthorized},
		"nothing":         {"", url.Values{}, ErrUnauthorized},
		"signed":          {"", signed("read", 0), nil},
		"signed, in time": {"", signed("read", now.Unix()), nil},
		"expired":         {"", signed("read", now.Unix()-1), ErrExpired},
		"other operation": {"", signed("write", 0), ErrSignature},
		"other path":      {"", tampered, ErrSignature},
		"other end":       {"", prolonged, ErrSignature},
	} {
		header := http.Header{}
		if test.token != "" {
			header.Set(TokenHeader, test.token)
		}
		if err := CheckFiles(header, test.query, "read", "tok", now); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

func TestUsername(t *testing.T) {
	for value, want := range map[string]string{"": "", "Bearer x": "", "Basic dXNlcjo=": "user", "basic dXNlcjpwdw==": "user", "Basic Og==": ""} {
		if got, err := Username(http.Header{"Authorization": {value}}); err != nil || got != want {
			t.Errorf("%q: got %q %v, want %q", value, got, err, want)
		}
	}
	for _, bad := range []string{"Basic %%%", "Basic dXNlcg=="} {
		if _, err := Username(http.Header{"Authorization": {bad}}); !errors.Is(err, ErrBasic) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
