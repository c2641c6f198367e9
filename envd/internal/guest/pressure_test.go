package guest

import (
	"testing"
	"time"
)

func TestStallsThatLast(t *testing.T) {
	start := time.Now()
	for _, test := range []struct {
		seconds []float64
		want    []bool
	}{
		{[]float64{0}, []bool{false}},
		{[]float64{0, 4, 8, 12}, []bool{false, true, false, true}}, // each remedy gets its time
		{[]float64{0, 7.9}, []bool{false, true}},
		{[]float64{0, 8, 30, 33}, []bool{false, false, false, true}},
	} {
		var told stalls
		for i, at := range test.seconds {
			if got := told.another(start.Add(time.Duration(at * float64(time.Second)))); got != test.want[i] {
				t.Errorf("%v: at %v got %v", test.seconds, at, got)
			}
		}
	}
}
