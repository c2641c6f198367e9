package guest

import (
	"encoding/json"
	"errors"
	"path"
	"strings"
	"testing"
)

// An /init that is accepted leaves a state that holds, and one that is not leaves none.
func FuzzInitRequest(f *testing.F) {
	for _, seed := range []string{
		"{}", first, `{"accessToken":null,"envVars":null}`, `{"envVars":{"A=B":"1"}}`, `{"envVars":{"A":"a\u0000"}}`, `{"hostname":"-a"}`,
		`{"timestamp":"2026-02-30T00:00:00Z"}`, `{"timestamp":"0000-01-01T00:00:00Z"}`, `{"timestamp":"2026-01-01T00:00:00+24:00"}`,
		`{"defaultWorkdir":"~root"}`, `{"defaultWorkdir":"~/../.."}`, `{"entropy":"!"}`, `{"machineId":"` + strings.Repeat("f", 33) + `"}`,
		`{"ACCESSTOKEN":"x","accessToken":"y"}`, `{"caBundle":"x","volumeMounts":[{"nfs_target":"a","path":"b"}]}`, "[]", `{"lifecycleID":1}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := new(InitRequest)
		if json.Unmarshal(body, request) != nil {
			return
		}
		who, err := request.identity()
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if who.hostname != "" && hostsWith("", who.hostname) != "127.0.0.1\tlocalhost\n127.0.1.1\t"+who.hostname+"\n" {
			t.Fatalf("hostname %q", who.hostname)
		}
		if len(who.entropy) > 4096 || len(who.machineID) != 0 && len(who.machineID) != 32 || !who.now.IsZero() && who.now.Year() < 2020 {
			t.Fatalf("%q gives %+v", body, who)
		}
		old := &State{AccessToken: "old", DefaultWorkdir: "/old", Env: map[string]string{"OLD": "1"}, LifecycleID: "old"}
		next, err := request.apply(old)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || next != nil {
				t.Fatal(next, err)
			}
			return
		}
		if !next.Initialised || request.AccessToken == nil && next.AccessToken != "old" || next.LifecycleID == "" {
			t.Fatalf("%q gives %+v", body, next)
		}
		if dir := next.DefaultWorkdir; dir != "" && !path.IsAbs(dir) && dir != "~" && !strings.HasPrefix(dir, "~/") {
			t.Fatalf("%q gives the directory %q", body, dir)
		}
		for name, value := range next.Env {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
				t.Fatalf("%q gives the variable %q", body, name)
			}
		}
		kept, err := json.Marshal(next)
		if err != nil {
			t.Fatal(err)
		}
		again := new(State)
		if err := json.Unmarshal(kept, again); err != nil || again.AccessToken != next.AccessToken || len(again.Env) != len(next.Env) {
			t.Fatalf("%s does not come back: %v", kept, err)
		}
	})
}

// The state file and /etc/hosts are in reach of whoever is root in the guest.
func FuzzHosts(f *testing.F) {
	for _, seed := range []string{"", "127.0.0.1 localhost", "127.0.1.1", "\x00\n\n", "127.0.0.1", "# 127.0.1.1 x\r\n127.0.1.1\tx y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, old string) {
		once := hostsWith(old, "name")
		if !strings.HasSuffix(once, "127.0.1.1\tname\n") {
			t.Fatalf("%q gives %q", old, once)
		}
		if again := hostsWith(once, "name"); again != once {
			t.Fatalf("%q, and again %q", once, again)
		}
	})
}

func FuzzKernelFigures(f *testing.F) {
	for _, seed := range []string{
		"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1", "cpu 1 2 3 4 5", "cpu", "cpu -1 x", "MemTotal: 16 kB\nMemAvailable: 8 kB\nCached: 1 kB", "MemTotal: kB",
		"MemTotal: 99999999999999999999 kB", "low 0\noom_kill 12\n", "oom_kill x", "oom_kill ",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		_, _, _ = parseStat(text)
		_, _ = parseMeminfo(text)
		_ = counter(text, "oom_kill")
	})
}
