package process

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/wrenn-dev/wrenn/envd/internal/guest"
	"github.com/wrenn-dev/wrenn/envd/internal/users"
)

// A variable is one variable, whatever its name and value.
func FuzzEnvironment(f *testing.F) {
	for _, seed := range [][2]string{{"A", "b"}, {"", "x"}, {"A=B", "x"}, {"A", "a\nB=c"}, {"A\x00", ""}, {"PATH", ""}, {"A", "\x00"}, {"\xff", "\xff"}} {
		f.Add(seed[0], seed[1])
	}
	user := users.User{Name: "user", Home: "/home/user"}
	state := &guest.State{SandboxID: "sb1"}
	plain, err := environment(user, state, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		got, err := environment(user, state, map[string]string{name: value})
		if err != nil {
			if name != "" && !strings.ContainsAny(name, "=\x00") && !strings.ContainsRune(value, 0) {
				t.Fatalf("%q=%q: %v", name, value, err)
			}
			return
		}
		want := map[string]bool{name + "=" + value: true}
		for _, one := range plain {
			if !strings.HasPrefix(one, name+"=") {
				want[one] = true
			}
		}
		if !slices.Equal(sorted(got), slices.Sorted(maps.Keys(want))) {
			t.Fatalf("%q=%q gives %q", name, value, got)
		}
	})
}

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}
