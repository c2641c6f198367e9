// Package files carries the contents of files over plain HTTP (GET and POST /files, POST /files/compose).
package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

// what a refused upload may still send
const (
	drainBytes = 64 << 20
	drainTime  = 10 * time.Second
)

// Handler serves /files.
type Handler struct{ machine *guest.Guest }

// NewHandler serves the files of machine.
func NewHandler(machine *guest.Guest) *Handler { return &Handler{machine: machine} }

// statusError is a failure with the HTTP status that tells it.
type statusError struct {
	status int
	error
}

func fail(status int, format string, arguments ...any) error {
	return statusError{status, fmt.Errorf(format, arguments...)}
}

// ServeHTTP admits the request by token or signature and serves it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		err = h.download(w, r)
	case http.MethodPost:
		if err = h.upload(w, r); err != nil {
			drain(w, r)
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		err = fail(http.StatusMethodNotAllowed, "method %s is not allowed", r.Method)
	}
	if err != nil {
		WriteError(w, statusOf(err), err.Error())
	}
}

// drain takes the rest of a body that was refused: a client that still sends would find its connection reset, and not
// read why. A client with more to send than this has to bear it.
func drain(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.CopyN(io.Discard, r.Body, drainBytes)
}

// admit checks the request's token or signature and finds its user.
func (h *Handler) admit(r *http.Request, operation string) (users.User, error) {
	state := h.machine.State()
	query := r.URL.Query()
	if !state.Initialised {
		return users.User{}, fail(http.StatusUnauthorized, "%w", auth.ErrUnauthorized)
	}
	if state.AccessToken != "" {
		if err := auth.CheckFiles(r.Header, query, operation, state.AccessToken, time.Now()); err != nil {
			return users.User{}, fail(http.StatusUnauthorized, "%w", err)
		}
	}
	return h.user(r, query.Get("username"))
}

// user finds the user of a request: the given one, that of the Basic header, or the default.
func (h *Handler) user(r *http.Request, name string) (users.User, error) {
	if name == "" {
		var err error
		if name, err = auth.Username(r.Header); err != nil {
			return users.User{}, fail(http.StatusUnauthorized, "%w", err)
		}
	}
	user, err := h.machine.User(name)
	if errors.Is(err, users.ErrUnknown) {
		return users.User{}, fail(http.StatusUnauthorized, "invalid username: '%s'", name)
	}
	return user, err
}

func (h *Handler) resolve(user users.User, path string) (string, error) {
	resolved, err := user.Resolve(path, h.machine.State().DefaultWorkdir)
	if err != nil {
		return "", fail(http.StatusBadRequest, "%w", err)
	}
	return resolved, nil
}

// statusOf finds the status for an error of the file system.
func statusOf(err error) int {
	var known statusError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &known):
		return known.status
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return http.StatusInsufficientStorage
	case errors.Is(err, fs.ErrNotExist):
		return http.StatusNotFound
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EROFS), errors.Is(err, unix.ENXIO),
		errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrPermission):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// WriteError answers with the JSON form of errors outside the RPCs.
func WriteError(w http.ResponseWriter, status int, message string) {
	body, err := json.Marshal(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
	if err != nil {
		body = []byte(`{"code":500,"message":"internal error"}`)
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Del("Content-Disposition")
	header.Del("Content-Encoding")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
