package files

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"time"

	"github.com/wrenn-dev/wrenn/envd/internal/metadata"
)

// An upload may stand still this long; a client that is gone without a word would hold its file for ever.
const uploadIdle = 2 * time.Minute

// how many files one upload may have: the answer names all of them
const maxFiles = 20_000

// entry is one written file in the answer.
type entry struct {
	Path     string            `json:"path"`
	Name     string            `json:"name"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (h *Handler) upload(w http.ResponseWriter, r *http.Request) error {
	user, err := h.admit(r, "write")
	if err != nil {
		return err
	}
	notes, err := metadata.FromHeader(r.Header)
	if err != nil {
		return fail(http.StatusBadRequest, "%w", err)
	}
	body, err := decoded(w, r)
	if err != nil {
		return err
	}
	job := upload{
		resolve: func(path string) (string, error) { return h.resolve(user, path) },
		store:   func(body io.Reader, path string) error { return h.receive(body, path, user, notes) },
		notes:   notes,
		seen:    map[string]bool{},
	}
	contentType, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err == nil && contentType == "multipart/form-data":
		if parameters["boundary"] == "" {
			return fail(http.StatusBadRequest, "multipart/form-data without a boundary")
		}
		err = job.parts(multipart.NewReader(body, parameters["boundary"]), r.URL.Query().Get("path"))
	case err == nil && contentType == "application/octet-stream":
		err = job.single(body, r.URL.Query().Get("path"))
	default:
		err = fail(http.StatusBadRequest,
			"Content-Type must be multipart/form-data or application/octet-stream, not '%s'", r.Header.Get("Content-Type"))
	}
	if err != nil {
		return err
	}
	answer, err := json.Marshal(job.written)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
	return nil
}

// upload is the work of one request.
type upload struct {
	resolve func(path string) (string, error)
	store   func(body io.Reader, path string) error
	notes   map[string]string
	seen    map[string]bool
	written []entry
}

// parts writes each part named `file`: all to path when that is given, else each to its own full file name.
func (u *upload) parts(reader *multipart.Reader, path string) error {
	u.written = []entry{}
	for {
		part, err := reader.NextRawPart()
		if err == io.EOF { // a body that breaks off wraps it
			return nil
		} else if err != nil {
			return fail(http.StatusBadRequest, "malformed multipart body: %w", err)
		}
		field, target, err := parseDisposition(part.Header.Get("Content-Disposition"))
		if err != nil {
			return err
		}
		if field != "file" {
			continue
		}
		if path != "" {
			target = path
		}
		if err := u.single(checked{part}, target); err != nil {
			return err
		}
	}
}

// parseDisposition gives the field's name and the whole file name of a part; part.FileName() keeps only the last element.
func parseDisposition(value string) (field, file string, err error) {
	_, parameters, err := mime.ParseMediaType(value)
	if err != nil {
		return "", "", fail(http.StatusBadRequest, "malformed Content-Disposition: %w", err)
	}
	return parameters["name"], parameters["filename"], nil
}

func (u *upload) single(body io.Reader, path string) error {
	if path == "" {
		return fail(http.StatusBadRequest, "no path given")
	}
	resolved, err := u.resolve(path)
	if err != nil {
		return err
	}
	if len(u.written) == maxFiles {
		return fail(http.StatusRequestEntityTooLarge, "more than %d files in one upload", maxFiles)
	}
	if u.seen[resolved] {
		return fail(http.StatusBadRequest, "path '%s' is given twice", resolved)
	}
	u.seen[resolved] = true
	if err := u.store(body, resolved); err != nil {
		return err
	}
	u.written = append(u.written, entry{
		Path: resolved, Name: filepath.Base(resolved), Type: "file", Metadata: u.notes,
	})
	return nil
}

// decoded gives the body without its content coding. Its errors are the client's, with status 400.
func decoded(w http.ResponseWriter, r *http.Request) (io.Reader, error) {
	plain := &patient{body: r.Body, control: http.NewResponseController(w)}
	switch coding := r.Header.Get("Content-Encoding"); coding {
	case "", "identity":
		return checked{plain}, nil
	case "gzip":
		unpacked, err := gzip.NewReader(plain)
		if err != nil {
			return nil, fail(http.StatusBadRequest, "malformed gzip body: %w", err)
		}
		return checked{unpacked}, nil
	default:
		return nil, fail(http.StatusBadRequest, "Content-Encoding '%s' is not supported", coding)
	}
}

// patient reads a body as long as something arrives now and then.
type patient struct {
	body    io.Reader
	control *http.ResponseController
	until   time.Time
}

func (p *patient) Read(into []byte) (int, error) {
	if now := time.Now(); p.until.Sub(now) < uploadIdle/2 {
		p.until = now.Add(uploadIdle)
		_ = p.control.SetReadDeadline(p.until)
	}
	n, err := p.body.Read(into)
	if errors.Is(err, io.EOF) {
		// else it would end the connection in the middle of the answer
		_ = p.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// checked marks the errors of a body as the client's.
type checked struct{ body io.Reader }

func (c checked) Read(into []byte) (int, error) {
	n, err := c.body.Read(into)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fail(http.StatusBadRequest, "the upload broke off: %w", err)
	}
	return n, err
}
