package guest

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Metrics is the answer of /metrics. Sizes are bytes unless the name says MiB.
type Metrics struct {
	Timestamp   int64   `json:"ts"`
	CPUCount    int     `json:"cpu_count"`
	CPUUsedPct  float64 `json:"cpu_used_pct"`
	MemTotalMiB int64   `json:"mem_total_mib"`
	MemUsedMiB  int64   `json:"mem_used_mib"`
	MemTotal    int64   `json:"mem_total"`
	MemUsed     int64   `json:"mem_used"`
	MemCache    int64   `json:"mem_cache"`
	DiskUsed    int64   `json:"disk_used"`
	DiskTotal   int64   `json:"disk_total"`
}

// Metrics reads the machine's figures. CPU use is the mean since the previous call (since boot at first): a
// sampler would cost an idle machine its idleness.
func (g *Guest) Metrics() (Metrics, error) {
	info, err := readMeminfo()
	if err != nil {
		return Metrics{}, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs("/", &disk); err != nil {
		return Metrics{}, err
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Metrics{}, err
	}
	busy, total, err := parseStat(string(stat))
	if err != nil {
		return Metrics{}, err
	}
	used := info.total - info.available
	return Metrics{
		Timestamp:   time.Now().Unix(),
		CPUCount:    runtime.NumCPU(),
		CPUUsedPct:  g.cpu.update(busy, total),
		MemTotalMiB: info.total / mib,
		MemUsedMiB:  used / mib,
		MemTotal:    info.total,
		MemUsed:     used,
		MemCache:    info.cached,
		DiskUsed:    int64(disk.Blocks-disk.Bfree) * disk.Bsize,
		DiskTotal:   int64(disk.Blocks) * disk.Bsize,
	}, nil
}

type cpuMeter struct {
	mu          sync.Mutex
	busy, total int64
	percent     float64
}

// update takes the ticks since boot and gives the share of busy ones since the last update.
func (m *cpuMeter) update(busy, total int64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	// ticks are 10 ms: a shorter window than ten of them says nothing
	if total-m.total >= 10 {
		percent := 100 * float64(busy-m.busy) / float64(total-m.total)
		m.percent = float64(int64(min(max(percent, 0), 100)*100)) / 100
		m.busy, m.total = busy, total
	}
	return m.percent
}

// parseStat sums the first line of /proc/stat.
func parseStat(text string) (busy, total int64, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[0] != "cpu" {
		return 0, 0, errors.New("/proc/stat: no cpu line")
	}
	// guest and guest_nice, 9 and 10, are part of user and nice already
	for i, field := range fields[1:min(len(fields), 9)] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		total += ticks
		if i != 3 && i != 4 { // idle, iowait
			busy += ticks
		}
	}
	return busy, total, nil
}

type meminfo struct{ total, free, available, cached int64 } // bytes

func readMeminfo() (meminfo, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return meminfo{}, err
	}
	return parseMeminfo(string(data))
}

func parseMeminfo(text string) (meminfo, error) {
	var info meminfo
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		target := map[string]*int64{
			"MemTotal": &info.total, "MemFree": &info.free, "MemAvailable": &info.available, "Cached": &info.cached,
		}[name]
		if target == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return meminfo{}, err
		}
		*target = kib * 1024
	}
	if info.total == 0 {
		return meminfo{}, errors.New("/proc/meminfo: no MemTotal")
	}
	return info, nil
}
