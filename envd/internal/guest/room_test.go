package guest

import "testing"

func TestRoomForPrograms(t *testing.T) {
	const fixed, margin = 415 * mib, 24 * mib
	for name, test := range map[string]struct {
		now  memory
		want int64
	}{
		"nothing runs":               {memory{used: 12 * mib, free: 413 * mib, available: 432 * mib}, fixed},
		"the rest is small":          {memory{used: 12 * mib, free: 440 * mib, available: 445 * mib}, fixed},
		"a thousand programs":        {memory{used: 255 * mib, free: 19 * mib, available: 35 * mib, cached: 11 * mib}, 256 * mib},
		"their own cache is no room": {memory{used: 300 * mib, cached: 250 * mib, free: 40 * mib, available: 290 * mib}, 316 * mib},
		"the rest's cache is":        {memory{used: 300 * mib, free: 10 * mib, available: 90 * mib}, 366 * mib},
		"nothing is left":            {memory{used: 300 * mib, free: 2 * mib, available: 2 * mib}, 301 * mib},
	} {
		if got := test.now.limit(fixed, margin); got != test.want {
			t.Errorf("%s: got %d MiB, want %d MiB", name, got/mib, test.want/mib)
		}
	}
}
