package files

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func (h *Handler) download(w http.ResponseWriter, r *http.Request) error {
	user, err := h.admit(r, "read")
	if err != nil {
		return err
	}
	encoding, err := chooseEncoding(r.Header.Get("Accept-Encoding"))
	if err != nil {
		return err
	}
	path, err := h.resolve(user, r.URL.Query().Get("path"))
	if err != nil {
		return err
	}
	// Non-blocking: opening a FIFO that nobody writes would wait for ever.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(http.StatusNotFound, "path '%s' does not exist", path)
	} else if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return fail(http.StatusBadRequest, "path '%s' is a directory", path)
	}
	if !info.Mode().IsRegular() {
		return fail(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Disposition", disposition(filepath.Base(path)))
	header.Set("Vary", "Accept-Encoding")
	switch {
	case encoding == "gzip":
		header.Set("Content-Encoding", "gzip")
		if r.Method == http.MethodHead {
			return nil
		}
		packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		return abortOn(errors.Join(stream(packed, file), packed.Close()))
	case info.Size() == 0:
		// A file of procfs says 0 and has content nevertheless.
		if r.Method == http.MethodHead {
			return nil
		}
		return abortOn(stream(w, file))
	case info.Size() <= pageSize && blocks(info) == 0:
		// A file of sysfs says a page, whatever it has. (As does a hole.)
		content, err := io.ReadAll(io.LimitReader(file, pageSize))
		if err != nil {
			return err
		}
		http.ServeContent(w, r, "", info.ModTime(), bytes.NewReader(content))
		return nil
	}
	http.ServeContent(w, r, "", info.ModTime(), file)
	return nil
}

// pageSize is the most that a file of sysfs holds.
const pageSize = 4096

func blocks(info fs.FileInfo) int64 {
	if raw, ok := info.Sys().(*syscall.Stat_t); ok {
		return raw.Blocks
	}
	return -1
}

func stream(to io.Writer, from *os.File) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 32<<10))
	return err
}

// abortOn drops the connection on an error in the middle of a body: a clean end would pass for the whole file.
func abortOn(err error) error {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// disposition names the file for browsers.
func disposition(name string) string {
	if value := mime.FormatMediaType("inline", map[string]string{"filename": name}); value != "" {
		return value
	}
	return "inline"
}

// chooseEncoding prefers the file as it is: compressing costs the guest more than the bytes cost the link.
// Only a client that lists nothing but gzip, or refuses identity, gets gzip; one that refuses both gets 406.
func chooseEncoding(accept string) (string, error) {
	if strings.TrimSpace(accept) == "" {
		return "identity", nil
	}
	allowed := map[string]bool{}
	others := 0
	for item := range strings.SplitSeq(accept, ",") {
		name, parameters, _ := strings.Cut(item, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "" {
			continue
		}
		quality := 1.0
		if value, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q="); ok {
			var err error
			if quality, err = strconv.ParseFloat(value, 64); err != nil {
				return "", fail(http.StatusBadRequest, "malformed Accept-Encoding header")
			}
		}
		allowed[name] = quality > 0
		if name != "gzip" && quality > 0 {
			others++
		}
	}
	rest, listed := allowed["*"]
	lookup := func(name string, otherwise bool) bool {
		if value, ok := allowed[name]; ok {
			return value
		}
		if listed {
			return rest
		}
		return otherwise
	}
	gzipped, plain := lookup("gzip", false), lookup("identity", true)
	switch {
	case gzipped && (!plain || others == 0 && allowed["gzip"]):
		return "gzip", nil
	case plain:
		return "identity", nil
	}
	return "", fail(http.StatusNotAcceptable, "no acceptable encoding in '%s': gzip and identity are offered", accept)
}
