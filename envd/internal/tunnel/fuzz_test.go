package tunnel

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func FuzzPort(f *testing.F) {
	for _, seed := range []string{"", "0", "1", "65535", "65536", "080", "+80", "-1", "8e1", " 80", "80\r\n", "٨٠", "0x50", "1_000"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		port, err := parsePort(text)
		if err != nil {
			return
		}
		if want := strings.TrimLeft(text, "0"); port == 0 || strconv.Itoa(int(port)) != want {
			t.Fatalf("%q gives %d", text, port)
		}
	})
}

func FuzzUpgrade(f *testing.F) {
	for _, seed := range [][2]string{{"Upgrade", "tcp"}, {"keep-alive, upgrade", "TCP"}, {"close", "tcp"}, {"", ""}, {",,", "tcp"}, {"upgraded", "tcp"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, connection, upgrade string) {
		if isUpgrade(http.Header{"Connection": {connection}, "Upgrade": {upgrade}}) &&
			(!strings.Contains(strings.ToLower(connection), "upgrade") || !strings.EqualFold(upgrade, "tcp")) {
			t.Fatalf("%q %q is an upgrade", connection, upgrade)
		}
	})
}
