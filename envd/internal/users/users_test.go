package users

import (
	"errors"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	user := User{Name: "user", Home: "/home/user"}
	for _, test := range []struct{ path, workdir, want string }{
		{"/a/../b", "", "/b"},
		{"", "", "/home/user"},
		{"a.txt", "", "/home/user/a.txt"},
		{"~", "/work", "/home/user"},
		{"~/x/", "/work", "/home/user/x"},
		{"a", "/work", "/work/a"},
		{"", "/work", "/work"},
		{"../..", "/work", "/"},
		{"a", "~/proj", "/home/user/proj/a"},
	} {
		if got, err := user.Resolve(test.path, test.workdir); err != nil || got != test.want {
			t.Errorf("%q in %q: got %q %v, want %q", test.path, test.workdir, got, err, test.want)
		}
	}
	for _, bad := range []string{"a\x00b", strings.Repeat("x", 5000), "~root/x"} {
		if _, err := user.Resolve(bad, ""); !errors.Is(err, ErrPath) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if _, err := (User{}).Resolve("a", ""); !errors.Is(err, ErrPath) {
		t.Errorf("no home: %v", err)
	}
}

func TestLookup(t *testing.T) {
	root, err := Lookup("root")
	if err != nil || root.UID != 0 || root.Home != "/root" || len(root.Groups) == 0 {
		t.Errorf("got %v %v", root, err)
	}
	if _, err := Lookup("nosuchuser"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if _, err := Current(); err != nil {
		t.Error(err)
	}
}
