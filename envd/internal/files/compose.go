package files

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const maxCompose = 1 << 20

// composeRequest is the body of POST /files/compose.
type composeRequest struct {
	SourcePaths []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

// Compose makes one file of several, in their order, and removes those: how a client uploads the parts of a large file
// side by side. Whatever fails leaves the parts and an old destination as they were.
func (h *Handler) Compose(w http.ResponseWriter, r *http.Request) {
	written, err := h.compose(w, r)
	if err != nil {
		WriteError(w, statusOf(err), err.Error())
		return
	}
	answer, err := json.Marshal(written)
	if err != nil {
		WriteError(w, http.StatusInternalServerError, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
}

func (h *Handler) compose(w http.ResponseWriter, r *http.Request) (entry, error) {
	request, err := parseCompose(http.MaxBytesReader(w, r.Body, maxCompose))
	if err != nil {
		return entry{}, err
	}
	user, err := h.user(r, request.Username)
	if err != nil {
		return entry{}, err
	}
	destination, err := h.resolve(user, request.Destination)
	if err != nil {
		return entry{}, err
	}
	there, err := os.Stat(destination)
	if err != nil {
		there = nil
	}
	parts := &parts{}
	defer parts.close()
	for _, source := range request.SourcePaths {
		path, err := h.resolve(user, source)
		if err != nil {
			return entry{}, err
		}
		info, err := checkPart(path)
		if err != nil {
			return entry{}, err
		}
		if path == destination || there != nil && os.SameFile(info, there) {
			return entry{}, fail(http.StatusBadRequest, "'%s' is a source and the destination", path)
		}
		parts.paths = append(parts.paths, path)
	}
	if err := h.receive(parts, destination, user, nil); err != nil {
		return entry{}, err
	}
	for _, path := range parts.paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return entry{}, err
		}
	}
	return entry{Path: destination, Name: filepath.Base(destination), Type: "file"}, nil
}

func parseCompose(body io.Reader) (composeRequest, error) {
	var request composeRequest
	if err := json.NewDecoder(body).Decode(&request); err != nil {
		return request, fail(http.StatusBadRequest, "the body is not a compose request: %w", err)
	}
	if len(request.SourcePaths) == 0 {
		return request, fail(http.StatusBadRequest, "no source_paths given")
	}
	if request.Destination == "" {
		return request, fail(http.StatusBadRequest, "no destination given")
	}
	return request, nil
}

func checkPart(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fail(http.StatusNotFound, "path '%s' does not exist", path)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fail(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	return info, nil
}

// parts reads files one after the other; one of them is open at a time.
type parts struct {
	paths []string
	next  int
	file  *os.File
}

func (p *parts) Read(into []byte) (int, error) {
	for {
		if p.file == nil {
			if p.next == len(p.paths) {
				return 0, io.EOF
			}
			// Looked at again, without waiting for the writer of a FIFO: it may be another file by now.
			file, err := os.OpenFile(p.paths[p.next], os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				return 0, err
			}
			p.file = file
			p.next++
			if info, err := file.Stat(); err != nil {
				return 0, err
			} else if !info.Mode().IsRegular() {
				return 0, fail(http.StatusBadRequest, "path '%s' is not a regular file", file.Name())
			}
		}
		n, err := p.file.Read(into)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		p.close()
		if n > 0 {
			return n, nil
		}
	}
}

func (p *parts) close() {
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
}
