package guest

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/wrenn-dev/wrenn/envd/internal/auth"
)

// ErrInvalid says that /init was asked for something that cannot be.
var ErrInvalid = errors.New("invalid init request")

// InitRequest is the body of /init. A field that is absent leaves what there was.
type InitRequest struct {
	AccessToken    *string            `json:"accessToken"` // "" opens the guest to everybody who reaches it
	Env            *map[string]string `json:"envVars"`
	DefaultUser    *string            `json:"defaultUser"`
	DefaultWorkdir *string            `json:"defaultWorkdir"`
	Hostname       string             `json:"hostname"`
	Timestamp      string             `json:"timestamp"` // RFC 3339, the host's time now
	Entropy        []byte             `json:"entropy"`   // for the kernel's random pool
	MachineID      string             `json:"machineId"`
	SandboxID      *string            `json:"sandboxId"`
	TemplateID     *string            `json:"templateId"`
	LifecycleID    string             `json:"lifecycleID"` // another one with every restore; "" is the present one
}

var (
	validHostname  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	validMachineID = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// Init begins a life of the guest: what clones share is made unique, then state is swapped. token is the
// caller's proof, needed once a token is set. newLife is false when this life has been acknowledged before;
// then only state changes. It fails with auth.ErrUnauthorized or ErrInvalid, and then nothing has changed.
func (g *Guest) Init(token string, request *InitRequest) (newLife bool, err error) {
	g.initLock.Lock()
	defer g.initLock.Unlock()
	current := g.State()
	// A retry of an /init whose answer got lost knows only the new token.
	retry := request.AccessToken != nil && auth.Equal(*request.AccessToken, current.AccessToken)
	if current.AccessToken != "" && !auth.Equal(token, current.AccessToken) && !retry {
		return false, auth.ErrUnauthorized
	}
	identity, err := request.identity()
	if err != nil {
		return false, err
	}
	next, err := request.apply(current)
	if err != nil {
		return false, err
	}
	newLife = !current.Initialised || next.LifecycleID != current.LifecycleID
	renewed := g.renewed
	if newLife {
		renewed = nil
		if g.touch {
			if renewed, err = g.become(identity); err != nil {
				return false, err
			}
		}
		if next.AccessToken != current.AccessToken {
			renewed = append(renewed, "token")
		}
	}
	if err := g.save(next); err != nil {
		return false, err
	}
	g.state.Store(next)
	g.renewed = renewed
	return newLife, nil
}

// Renewed names what the present life has of its own: `random`, `clock`, `hostname`, `machine_id`, `boot_id`,
// `ssh_host_keys`, `token`.
func (g *Guest) Renewed() []string {
	g.initLock.Lock()
	defer g.initLock.Unlock()
	return g.renewed
}

// apply gives the state that follows current.
func (r *InitRequest) apply(current *State) (*State, error) {
	next := *current
	next.Initialised = true
	if r.LifecycleID != "" {
		next.LifecycleID = r.LifecycleID
	}
	for _, field := range []struct {
		given  *string
		target *string
	}{
		{r.AccessToken, &next.AccessToken},
		{r.DefaultUser, &next.DefaultUser},
		{r.DefaultWorkdir, &next.DefaultWorkdir},
		{r.SandboxID, &next.SandboxID},
		{r.TemplateID, &next.TemplateID},
	} {
		if field.given == nil {
			continue
		}
		if strings.ContainsRune(*field.given, 0) {
			return nil, fmt.Errorf("%w: a NUL byte", ErrInvalid)
		}
		*field.target = *field.given
	}
	if dir := next.DefaultWorkdir; dir != "" && dir != "~" && !strings.HasPrefix(dir, "~/") && !path.IsAbs(dir) {
		return nil, fmt.Errorf("%w: defaultWorkdir is neither absolute nor below ~", ErrInvalid)
	}
	if r.Env != nil {
		for name, value := range *r.Env {
			if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
				return nil, fmt.Errorf("%w: environment variable %q", ErrInvalid, name)
			}
		}
		next.Env = maps.Clone(*r.Env)
	}
	return &next, nil
}

// identity is what makes one clone differ from the next; zero fields are left as they are.
type identity struct {
	entropy   []byte
	now       time.Time
	hostname  string
	machineID string
}

func (r *InitRequest) identity() (identity, error) {
	result := identity{entropy: r.Entropy, hostname: r.Hostname, machineID: r.MachineID}
	if r.Timestamp != "" {
		now, err := time.Parse(time.RFC3339Nano, r.Timestamp)
		if err != nil || now.Year() < 2020 {
			return identity{}, fmt.Errorf("%w: timestamp", ErrInvalid)
		}
		result.now = now
	}
	if len(r.Entropy) > 4096 {
		return identity{}, fmt.Errorf("%w: more than 4096 bytes of entropy", ErrInvalid)
	}
	if r.Hostname != "" && !validHostname.MatchString(r.Hostname) {
		return identity{}, fmt.Errorf("%w: hostname", ErrInvalid)
	}
	if r.MachineID != "" && !validMachineID.MatchString(r.MachineID) {
		return identity{}, fmt.Errorf("%w: machineId is not 32 hexadecimal digits", ErrInvalid)
	}
	return result, nil
}
