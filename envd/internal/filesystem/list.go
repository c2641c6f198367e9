package filesystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

// The answer is built in memory, about 1 KiB an entry: this many still fit a small guest.
const maxEntries = 20_000

// list walks root depth first in lexical order. Entries carry root as the client wrote it, also when it is a link.
func list(ctx context.Context, root string, depth int) ([]*pb.EntryInfo, error) {
	resolved, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(resolved); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("path is not a directory: %s", root))
	}
	owners := newNames()
	var entries []*pb.EntryInfo
	err = filepath.WalkDir(resolved, func(path string, d fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if path == resolved {
			return err
		}
		if err != nil { // a directory that vanished or cannot be read has been listed itself
			return nil
		}
		relative, err := filepath.Rel(resolved, path)
		if err != nil {
			return err
		}
		if len(entries) == maxEntries {
			return connect.NewError(connect.CodeResourceExhausted,
				fmt.Errorf("more than %d entries below %s: list a part of it", maxEntries, root))
		}
		entry, err := owners.stat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) { // vanished meanwhile
			return nil
		} else if err != nil {
			return err
		}
		entry.Path = text(filepath.Join(root, relative))
		entries = append(entries, entry)
		if d.IsDir() && strings.Count(relative, "/")+1 >= depth {
			return filepath.SkipDir
		}
		return nil
	})
	return entries, err
}
