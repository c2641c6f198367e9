// Package auth checks who may talk to envd: the access token of the current life, or a signed link to a file.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// TokenHeader carries the access token.
const TokenHeader = "X-Access-Token"

// Failures, each with the text that clients see.
var (
	ErrUnauthorized = errors.New(
		"unauthorized access, please provide a valid access token or method signing if supported")
	ErrSignature = errors.New("invalid signature")
	ErrExpired   = errors.New("signature is already expired")
	ErrBasic     = errors.New("malformed Basic authorization header")
)

// Equal compares two secrets in a time that tells nothing about them, their lengths included.
func Equal(a, b string) bool {
	hashA, hashB := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(hashA[:], hashB[:]) == 1
}

// Sign makes the signature of a link to a file. expiration is in Unix seconds, "" for a link without an end.
func Sign(path, operation, user, token, expiration string) string {
	raw := strings.Join([]string{path, operation, user, token}, ":")
	if expiration != "" {
		raw += ":" + expiration
	}
	sum := sha256.Sum256([]byte(raw))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// CheckFiles admits a request for /files by token or signature. operation is "read" or "write".
func CheckFiles(header http.Header, query url.Values, operation, token string, now time.Time) error {
	if given := header.Get(TokenHeader); given != "" {
		if !Equal(given, token) {
			return ErrUnauthorized
		}
		return nil
	}
	signature := query.Get("signature")
	if signature == "" {
		return ErrUnauthorized
	}
	expiration := query.Get("signature_expiration")
	if !Equal(signature, Sign(query.Get("path"), operation, query.Get("username"), token, expiration)) {
		return ErrSignature
	}
	if expiration == "" {
		return nil
	}
	seconds, err := strconv.ParseInt(expiration, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: signature_expiration is not a number", ErrSignature)
	}
	if now.Unix() > seconds {
		return ErrExpired
	}
	return nil
}

// Username reads the user of a request from its Basic header; the password is ignored. No Basic header
// gives "", the default user. It fails with ErrBasic.
func Username(header http.Header) (string, error) {
	value := header.Get("Authorization")
	if len(value) < 6 || !strings.EqualFold(value[:6], "basic ") {
		return "", nil
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value[6:]))
	if err != nil {
		return "", ErrBasic
	}
	name, _, ok := strings.Cut(string(raw), ":")
	if !ok {
		return "", ErrBasic
	}
	return name, nil
}
