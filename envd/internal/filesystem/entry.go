package filesystem

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wrenn-dev/wrenn/envd/internal/metadata"
	pb "github.com/wrenn-dev/wrenn/envd/internal/pb/filesystem"
)

// names finds the names of users and groups once per request: each look-up reads a whole file.
type names struct{ users, groups map[uint32]string }

func newNames() *names {
	return &names{users: map[uint32]string{}, groups: map[uint32]string{}}
}

func (n *names) user(id uint32) string {
	return cached(n.users, id, func(text string) (string, error) {
		found, err := user.LookupId(text)
		if err != nil {
			return "", err
		}
		return found.Username, nil
	})
}

func (n *names) group(id uint32) string {
	return cached(n.groups, id, func(text string) (string, error) {
		found, err := user.LookupGroupId(text)
		if err != nil {
			return "", err
		}
		return found.Name, nil
	})
}

// cached gives the number itself for an id without a name.
func cached(known map[uint32]string, id uint32, lookup func(string) (string, error)) string {
	name, ok := known[id]
	if !ok {
		text := strconv.FormatUint(uint64(id), 10)
		var err error
		if name, err = lookup(text); err != nil {
			name = text
		}
		known[id] = name
	}
	return name
}

// stat describes path; it does not follow a link, but tells the type of what the link leads to.
func (n *names) stat(path string) (*pb.EntryInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	entry := &pb.EntryInfo{
		Name:         text(filepath.Base(path)),
		Type:         typeOf(info.Mode()),
		Path:         text(path),
		Size:         info.Size(),
		Mode:         uint32(info.Mode().Perm()),
		Permissions:  info.Mode().String(),
		ModifiedTime: timestamppb.New(info.ModTime()),
		Metadata:     metadata.Read(path),
	}
	if raw, ok := info.Sys().(*syscall.Stat_t); ok {
		entry.Owner, entry.Group = n.user(raw.Uid), n.group(raw.Gid)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target := text(follow(path))
		entry.SymlinkTarget = &target
		if pointed, err := os.Stat(path); err == nil {
			entry.Type = typeOf(pointed.Mode())
		}
	}
	return entry, nil
}

// follow gives the absolute path that a link leads to, as far as it leads.
func follow(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	target, err := os.Readlink(path)
	if err != nil {
		return path
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return filepath.Clean(target)
}

// typeOf leaves devices, sockets and FIFOs unspecified: the protocol has no word for them.
func typeOf(mode fs.FileMode) pb.FileType {
	switch {
	case mode.IsRegular():
		return pb.FileType_FILE_TYPE_FILE
	case mode.IsDir():
		return pb.FileType_FILE_TYPE_DIRECTORY
	case mode&fs.ModeSymlink != 0:
		return pb.FileType_FILE_TYPE_SYMLINK
	}
	return pb.FileType_FILE_TYPE_UNSPECIFIED
}

// text makes a file name fit for a protobuf string.
func text(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }
