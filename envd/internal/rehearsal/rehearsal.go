// Package rehearsal goes once through what a client does first in every sandbox. Sandboxes are copies of a booted
// guest's memory: what envd, the kernel and the usual programs prepare lazily (types met for the first time, pages
// read from the disk, files copied into the overlay) is prepared once, in the original, and not in every copy.
package rehearsal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/httpd"
)

const (
	jsonType   = "application/json"
	streamType = "application/connect+json"
	scratch    = "/tmp/.envd-rehearsal"
)

// scene is one request of the rehearsal.
type scene struct {
	method, path, contentType string
	body                      []byte
}

// Run plays all scenes on a server of its own, over a loopback connection as real as a client's; nothing of them
// stays: no token, no names, no program. Programs of the scenes end with limit at the latest. Errors are for the log:
// a guest that lacks a program, or a slow one, is only slower later.
func Run(machine *guest.Guest, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	stage := machine.Rehearsal()
	defer stage.End() // with all else gone
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- httpd.New(stage.Guest).Serve(serving, listener) }()
	err = play(ctx, "http://"+listener.Addr().String())
	stop()
	if ended := <-done; err == nil {
		err = ended
	}
	_ = os.Remove(scratch)
	runtime.GC() // none shall be due just when a copy begins to live
	return err
}

func play(ctx context.Context, url string) error {
	token := rand.Text()
	scenes, err := scenes(token)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableCompression: true}
	defer transport.CloseIdleConnections()
	for _, s := range scenes {
		request, err := http.NewRequestWithContext(ctx, s.method, url+s.path, bytes.NewReader(s.body))
		if err != nil {
			return err
		}
		request.Header.Set("X-Access-Token", token)
		request.Header.Set("Content-Type", s.contentType)
		if s.contentType != "" {
			request.Header.Set("Connect-Protocol-Version", "1")
		}
		if until, ok := ctx.Deadline(); ok && s.contentType == streamType {
			left := max(time.Until(until), time.Millisecond)
			request.Header.Set("Connect-Timeout-Ms", strconv.FormatInt(left.Milliseconds(), 10))
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		if err != nil {
			return err
		}
		if response.StatusCode >= 300 {
			return fmt.Errorf("%s %s: %s", s.method, s.path, response.Status)
		}
	}
	return nil
}

func scenes(token string) ([]scene, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	seed := make([]byte, 64)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	var bodies [][]byte
	for _, life := range []string{"rehearsal", "performance"} { // the second one as after a restore
		body, err := json.Marshal(map[string]any{
			"accessToken": token, "envVars": map[string]string{"REHEARSAL": "1"}, "defaultWorkdir": "",
			"hostname": name, "timestamp": time.Now().UTC().Format(time.RFC3339Nano),
			"entropy": base64.StdEncoding.EncodeToString(seed), "sandboxId": life, "templateId": life, "lifecycleID": life,
		})
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, body)
	}
	path := "?username=root&path=" + scratch
	return []scene{
		{"GET", "/health", "", nil},
		{"POST", "/init", jsonType, bodies[0]},
		{"POST", "/init", jsonType, bodies[1]},
		{"POST", "/process.Process/Start", streamType, program("python3 -c pass")},
		{"POST", "/process.Process/Start", streamType, program("echo ready")},
		{"POST", "/process.Process/List", jsonType, []byte("{}")},
		{"POST", "/files" + path, "application/octet-stream", []byte("ready\n")},
		{"GET", "/files" + path, "", nil},
		{"POST", "/filesystem.Filesystem/Stat", jsonType, []byte(`{"path":"` + scratch + `"}`)},
		{"POST", "/filesystem.Filesystem/ListDir", jsonType, []byte(`{"path":"/tmp","depth":1}`)},
	}, nil
}

// program is the streaming form of a request to start a login shell.
func program(line string) []byte {
	message := []byte(`{"process":{"cmd":"/bin/bash","args":["-l","-c","` + line + `"]},"stdin":false}`)
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}
