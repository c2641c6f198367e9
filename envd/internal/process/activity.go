package process

import "time"

// Activity tells how many seconds ago something last went on here, 0 while it does; nil when it never did.
type Activity struct {
	Command  *float64 `json:"command,omitempty"`  // a program ran
	Terminal *float64 `json:"terminal,omitempty"` // somebody was attached to one with a terminal
}

// Activity is for those who end idle sandboxes.
func (s *Service) Activity() Activity {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if len(t.running) > 0 {
		t.lastCommand = now
	}
	for p := range t.running {
		if p.tty != nil && p.hub.attended() {
			t.lastTerminal = now
		}
	}
	return Activity{Command: since(t.lastCommand, now), Terminal: since(t.lastTerminal, now)}
}

// leave ends a subscription.
func (s *Service) leave(p *process, sub *subscriber) {
	p.hub.leave(sub)
	if p.tty != nil {
		s.table.mu.Lock()
		defer s.table.mu.Unlock()
		s.table.lastTerminal = time.Now()
	}
}

func since(moment, now time.Time) *float64 {
	if moment.IsZero() {
		return nil
	}
	seconds := now.Sub(moment).Seconds()
	return &seconds
}
