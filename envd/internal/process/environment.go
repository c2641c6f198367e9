package process

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

var errEnvironment = errors.New("invalid environment variable")

// environment gives a program's variables: the login's, the sandbox's names, those of /init, the request's.
// The last one of a name wins.
func environment(user users.User, state *guest.State, request map[string]string) ([]string, error) {
	path := os.Getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	values := map[string]string{
		"PATH":             path,
		"HOME":             user.Home,
		"USER":             user.Name,
		"LOGNAME":          user.Name,
		"E2B_SANDBOX":      "true",
		"E2B_SANDBOX_ID":   state.SandboxID,
		"E2B_TEMPLATE_ID":  state.TemplateID,
		"WRENN_SANDBOX_ID": state.SandboxID,
	}
	for _, source := range []map[string]string{state.Env, request} {
		for name, value := range source {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
				return nil, fmt.Errorf("%w: %q", errEnvironment, name)
			}
			values[name] = value
		}
	}
	list := make([]string, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, name+"="+values[name])
	}
	return list, nil
}

// workdir gives the directory a program starts in. requested is nil when the client named none: then the
// default of /init, the home, or / when the user has no home.
func workdir(user users.User, state *guest.State, requested *string) (string, error) {
	path := ""
	if requested != nil {
		path = *requested
	}
	if path == "" {
		path = state.DefaultWorkdir
	}
	chosen := path != ""
	if !chosen {
		path = user.Home
	}
	dir, err := user.Resolve(path, state.DefaultWorkdir)
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir, nil
	}
	if !chosen {
		return "/", nil
	}
	return "", fmt.Errorf("cwd '%s' does not exist", dir)
}

// executable finds cmd as a shell would, by the PATH of the program's own environment.
func executable(cmd, dir string, env []string) (string, error) {
	if cmd == "" {
		return "", errors.New("no command given")
	}
	if strings.ContainsRune(cmd, '/') {
		if !filepath.IsAbs(cmd) {
			cmd = filepath.Join(dir, cmd)
		}
		return cmd, isExecutable(cmd)
	}
	for _, variable := range env {
		path, ok := strings.CutPrefix(variable, "PATH=")
		if !ok {
			continue
		}
		for _, entry := range filepath.SplitList(path) {
			if !filepath.IsAbs(entry) {
				entry = filepath.Join(dir, entry)
			}
			if candidate := filepath.Join(entry, cmd); isExecutable(candidate) == nil {
				return candidate, nil
			}
		}
	}
	return "", errors.New("executable file not found in $PATH")
}

func isExecutable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("no such file or directory")
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("is a directory")
	case info.Mode()&0o111 == 0:
		return errors.New("permission denied")
	}
	return nil
}
