package httpd

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
	"github.com/wrenn-dev/wrenn/envd/internal/files"
	"github.com/wrenn-dev/wrenn/envd/internal/guest"
)

const maxInit = 1 << 20

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) init(w http.ResponseWriter, r *http.Request) {
	request := new(guest.InitRequest)
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxInit))
	if err := decoder.Decode(request); err != nil && !errors.Is(err, io.EOF) { // an empty body changes nothing
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			files.WriteError(w, http.StatusRequestEntityTooLarge, "the body is larger than 1 MiB")
			return
		}
		files.WriteError(w, http.StatusBadRequest, "the body is not an init request: "+err.Error())
		return
	}
	newLife, err := s.machine.Init(r.Header.Get(auth.TokenHeader), request)
	switch {
	case errors.Is(err, auth.ErrUnauthorized):
		files.WriteError(w, http.StatusUnauthorized, err.Error())
	case errors.Is(err, guest.ErrInvalid):
		files.WriteError(w, http.StatusBadRequest, err.Error())
	case err != nil:
		log.Printf("init: %v", err)
		files.WriteError(w, http.StatusInternalServerError, err.Error())
	default:
		if newLife {
			s.lives.endOthers(r.Context())
		}
		w.Header().Set("X-Envd-Renewed", strings.Join(s.machine.Renewed(), ","))
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	figures, err := s.machine.Metrics()
	if err != nil {
		files.WriteError(w, http.StatusInternalServerError, err.Error())
		return
	}
	writeJSON(w, figures)
}

func (s *Server) envs(w http.ResponseWriter, _ *http.Request) {
	env := s.machine.State().Env
	if env == nil {
		env = map[string]string{}
	}
	writeJSON(w, env)
}

// sync has all file systems written out: what was written before is on the disk when it answers.
func (s *Server) sync(w http.ResponseWriter, _ *http.Request) {
	unix.Sync()
	w.WriteHeader(http.StatusNoContent)
}

// withToken admits only requests that carry the token of this life.
func (s *Server) withToken(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state := s.machine.State()
		open := state.Initialised && state.AccessToken == ""
		if !open && (!state.Initialised || !auth.Equal(r.Header.Get(auth.TokenHeader), state.AccessToken)) {
			files.WriteError(w, http.StatusUnauthorized, auth.ErrUnauthorized.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// withHeaders tells envd's version and lets every web page in: what protects the guest is the token, which no browser
// adds by itself.
func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Envd-Version", Version)
		header.Set("Access-Control-Allow-Origin", "*")
		header.Set("Access-Control-Expose-Headers",
			"Location, Cache-Control, Content-Disposition, Content-Encoding, Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin")
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			header.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE")
			// not "*": that does not cover Authorization
			if wanted := r.Header.Get("Access-Control-Request-Headers"); wanted != "" {
				header.Set("Access-Control-Allow-Headers", wanted)
			}
			header.Set("Access-Control-Max-Age", "7200")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func writeJSON(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		files.WriteError(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
