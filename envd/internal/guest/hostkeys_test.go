package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func place(t *testing.T, g *Guest, name, content string) {
	t.Helper()
	path := filepath.Join(g.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func isThere(g *Guest, name string) bool {
	_, err := os.Lstat(filepath.Join(g.root, name))
	return err == nil
}

const key = "etc/ssh/ssh_host_ed25519_key"

func TestAnotherMachineHasOtherHostKeys(t *testing.T) {
	g, kernel := newGuest(t)
	for _, name := range []string{key, key + ".pub", key + "-cert.pub", "etc/ssh/ssh_host_key", "etc/ssh/sshd_config"} {
		place(t, g, name, "old")
	}
	place(t, g, "run/sshd.pid", "77\n")
	if _, err := g.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	if content(t, g, key) != "new" || isThere(g, key+".pub") || isThere(g, key+"-cert.pub") {
		t.Error("the old key is there")
	}
	if content(t, g, "etc/ssh/ssh_host_key") != "old" || content(t, g, "etc/ssh/sshd_config") != "old" {
		t.Error("something else is gone")
	}
	if !slices.Equal(kernel.calls[4:], []string{"key ed25519", "reload 77 sshd"}) {
		t.Errorf("calls %q", kernel.calls)
	}
	if !slices.Contains(g.Renewed(), "ssh_host_keys") {
		t.Errorf("renewed %q", g.Renewed())
	}
}

func TestTheSameMachineKeepsItsHostKeys(t *testing.T) {
	g, _ := newGuest(t)
	if _, err := g.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	place(t, g, key, "mine")
	if _, err := g.Init("one", parse(t, strings.Replace(first, "life1", "life2", 1))); err != nil {
		t.Fatal(err)
	}
	if content(t, g, key) != "mine" || slices.Contains(g.Renewed(), "ssh_host_keys") {
		t.Errorf("%s, renewed %q", content(t, g, key), g.Renewed())
	}
}

func TestAKeyThatCannotBeMadeIsNotTheOldOne(t *testing.T) {
	g, kernel := newGuest(t)
	kernel.fails = "key"
	place(t, g, key, "old")
	if _, err := g.Init("", parse(t, first)); err != nil {
		t.Fatal(err)
	}
	if isThere(g, key) || slices.Contains(g.Renewed(), "ssh_host_keys") {
		t.Errorf("renewed %q", g.Renewed())
	}
}
