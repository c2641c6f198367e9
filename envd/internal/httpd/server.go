// Package httpd is envd's one listener: health, init, metrics and files as plain HTTP, the services as Connect.
package httpd

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/wrenn-dev/wrenn/envd/internal/batch"
	"github.com/wrenn-dev/wrenn/envd/internal/codec"
	"github.com/wrenn-dev/wrenn/envd/internal/files"
	"github.com/wrenn-dev/wrenn/envd/internal/filesystem"
	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem/filesystemconnect"
	"github.com/wrenn-dev/wrenn/envd/internal/pb/process/processconnect"
	"github.com/wrenn-dev/wrenn/envd/internal/process"
	"github.com/wrenn-dev/wrenn/envd/internal/tunnel"
)

// Version is the level of the protocol that clients switch their features by.
const Version = "0.6.13"

const (
	// one RPC message; larger contents travel by /files
	maxMessage = 8 << 20
	maxHeader  = 64 << 10
	// Above what HTTP clients keep an idle connection for (5 to 90 s), so that not the server is the one to
	// close a connection just when the next request is on its way.
	idleTimeout   = 120 * time.Second
	headerTimeout = 20 * time.Second
)

// Server serves one machine.
type Server struct {
	machine *guest.Guest
	lives   lives
	http    http.Server
}

// New prepares a server; Serve starts it.
func New(machine *guest.Guest) *Server {
	s := &Server{machine: machine}
	options := []connect.HandlerOption{
		connect.WithCodec(codec.JSON("json")),
		connect.WithCodec(codec.JSON("json; charset=utf-8")),
		connect.WithCompression("gzip", nil, nil), // never: bytes are cheaper than the guest's CPU
		connect.WithReadMaxBytes(maxMessage),
		connect.WithRecover(recovered),
	}
	contents := files.NewHandler(machine)
	api := http.NewServeMux()
	service := func(path string, handler http.Handler) { api.Handle(path, batch.Handler(handler)) }
	programs := process.NewService(machine)
	service(processconnect.NewProcessHandler(programs, options...))
	service(filesystemconnect.NewFilesystemHandler(filesystem.NewService(machine),
		append(options, connect.WithInterceptors(filesystem.Legacy()))...))
	api.HandleFunc("POST /files/compose", contents.Compose)
	api.Handle("GET /tunnel", tunnel.NewHandler(s.lives.forget))
	api.HandleFunc("GET /metrics", s.metrics)
	api.HandleFunc("GET /activity", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, programs.Activity()) })
	api.HandleFunc("GET /envs", s.envs)
	api.HandleFunc("POST /sync", s.sync)
	open := http.NewServeMux()
	open.HandleFunc("GET /health", s.health)
	open.HandleFunc("POST /init", s.init)
	open.Handle("/files", contents) // admits by token or by signature itself
	open.Handle("/", s.withToken(api))
	s.http = http.Server{
		Handler:           withHeaders(open),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         s.lives.connState,
		ConnContext:       s.lives.connContext,
	}
	return s
}

// Serve answers on listener until ctx ends.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.http.Close() })
	defer stop()
	if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handler is for tests.
func (s *Server) Handler() http.Handler { return s.http.Handler }

func recovered(_ context.Context, spec connect.Spec, _ http.Header, cause any) error {
	log.Printf("panic in %s: %v", spec.Procedure, cause)
	return connect.NewError(connect.CodeInternal, errors.New("internal error"))
}
