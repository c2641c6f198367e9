// Package keepalive tells how long a stream may be silent.
package keepalive

import (
	"net/http"
	"strconv"
	"time"
)

// Default is for clients that ask for nothing.
const Default = 90 * time.Second

// Interval reads the Keepalive-Ping-Interval header: whole seconds.
func Interval(header http.Header) time.Duration {
	seconds, err := strconv.ParseUint(header.Get("Keepalive-Ping-Interval"), 10, 16)
	if err != nil || seconds == 0 {
		return Default
	}
	return time.Duration(seconds) * time.Second
}
