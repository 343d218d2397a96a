package reflex

import (
	"math"
	"slices"
	"sync"
	"time"
)

const (
	// aheadSeconds of work are with the server at a time, one request at least: enough that it never waits for the next
	// one, and so little that nearly every choice is made at the last moment.
	aheadSeconds = 0.002
	// leastMargin and mostMargin are the part of the service level that is not planned with: what was foreseen takes longer
	// now and then, and the answer has its way to go. Between them it is so many deviations of what the allocated version
	// takes, as TCP reckons its timeouts (RFC 6298): a server with a CPU limit takes more or less by where in the
	// scheduler's period an inference begins.
	leastMargin = 0.06
	mostMargin  = 0.2
	deviations  = 3.0
	// learning is the weight of the newest service time.
	learning = 0.2
	// unknownSeconds is taken for the service of a version that nobody measured.
	unknownSeconds = 0.01
)

// Settings of a task, as its owner declared and the operator measured them.
type Settings struct {
	// SLOSeconds is the service level's latency.
	SLOSeconds float64 `json:"sloSeconds"`
	// BestEffort requests are refused before requests of other tasks are late.
	BestEffort bool `json:"bestEffort"`
	// ServiceSeconds is what an inference takes by its profile, for every version that may answer in place of the
	// allocated one; observation takes over.
	ServiceSeconds map[int64]float64 `json:"serviceSeconds"`
}

// Task is one task's queue, and what is known of its versions.
type Task struct {
	server   *Server
	mu       sync.Mutex
	settings Settings
	loaded   []int64           // every loaded version, cheapest first; the last one is allocated
	versions []int64           // those of them that may answer
	seconds  map[int64]float64 // by version, what an inference takes alone, as observed
	off      map[int64]float64 // by version, by how much it is off that, in the mean
	waiting  []*Ticket
	sent     int
	// answered is when the server last answered one of the requests: from then on it had time for the next.
	answered time.Time
}

// Ticket is one request on its way through the queue.
type Ticket struct {
	arrived   time.Time
	sent      time.Time
	turn      chan struct{} // nil: it came at once
	stretch   float64       // when it was sent
	version   int64
	allocated bool
	started   bool
	gone      bool
}

// NewTask returns a task of a server, without loaded versions.
func NewTask(server *Server, settings Settings) *Task {
	return &Task{server: server, settings: settings, seconds: map[int64]float64{}, off: map[int64]float64{}}
}

// Configure replaces the settings. What was observed stays.
func (t *Task) Configure(settings Settings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settings = settings
	t.choose(t.loaded)
}

// Load says which versions are loaded.
func (t *Task) Load(versions []int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.choose(versions)
	t.dispatch(time.Now())
}

// choose takes the loaded versions that may answer. The allocated one always does, whatever is said of it.
func (t *Task) choose(loaded []int64) {
	t.loaded = slices.Sorted(slices.Values(loaded))
	t.versions = nil
	for place, version := range t.loaded {
		if _, listed := t.settings.ServiceSeconds[version]; listed || place == len(t.loaded)-1 {
			t.versions = append(t.versions, version)
		}
	}
	for version := range t.seconds {
		if !slices.Contains(t.versions, version) {
			delete(t.seconds, version)
			delete(t.off, version)
		}
	}
}

// Enter takes a request that came at a moment into the queue. The channel is closed when its turn has come; it is nil if
// that is now. Afterwards it has to Leave, before or instead it may Cancel.
func (t *Task) Enter(now time.Time) (ticket *Ticket, turn <-chan struct{}) {
	ticket = &Ticket{arrived: now}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 && t.sent < t.most() {
		t.send(ticket, time.Now())
		return ticket, nil
	}
	ticket.turn = make(chan struct{})
	t.waiting = append(t.waiting, ticket)
	return ticket, ticket.turn
}

// Cancel takes a request out that was not handed to the server: its client has gone.
func (t *Task) Cancel(ticket *Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ticket.gone = true
	if ticket.started {
		t.took(-1)
		t.dispatch(time.Now())
	}
}

// Version returns the version that is to answer; 0: whatever the server takes.
func (k *Ticket) Version() int64 { return k.version }

// Allocated tells whether that is the version that the server takes by itself.
func (k *Ticket) Allocated() bool { return k.allocated }

// Leave says that the server has answered, or has not. What it took is learned from answers only.
func (t *Task) Leave(ticket *Ticket, now time.Time, answered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stretch := (ticket.stretch + t.server.stretch(true)) / 2
	t.took(-1)
	if answered {
		began := ticket.sent
		if t.answered.After(began) {
			began = t.answered
		}
		if ticket.version != 0 {
			t.learn(ticket.version, now.Sub(began).Seconds()/stretch)
		}
		t.answered = now
	}
	t.dispatch(now)
}

// Pending returns how many requests wait or are with the server.
func (t *Task) Pending() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.living() + t.sent
}

// Late tells whether a request that came now would be late even if the cheapest loaded version answered everything.
func (t *Task) Late() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.versions) == 0 {
		return false
	}
	service := t.service(t.versions[0]) * t.server.stretch(t.sent > 0)
	return float64(t.living()+t.sent+1)*service > t.settings.SLOSeconds
}

// BestEffort tells whether requests may be refused.
func (t *Task) BestEffort() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settings.BestEffort
}

// SLO returns the service level's latency.
func (t *Task) SLO() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Duration(t.settings.SLOSeconds * float64(time.Second))
}

// Service returns what an inference of each loaded version takes alone, seconds.
func (t *Task) Service() map[int64]float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := make(map[int64]float64, len(t.versions))
	for _, version := range t.versions {
		found[version] = t.service(version)
	}
	return found
}

func (t *Task) learn(version int64, seconds float64) {
	if before, known := t.seconds[version]; known {
		t.off[version] += learning * (math.Abs(seconds-before) - t.off[version])
		seconds = before + learning*(seconds-before)
	}
	t.seconds[version] = seconds
}

// service returns what an inference takes alone: as observed, else by its profile, times what the others are off theirs.
func (t *Task) service(version int64) float64 {
	if seconds, known := t.seconds[version]; known {
		return seconds
	}
	profile, known := t.settings.ServiceSeconds[version]
	if !known || profile <= 0 {
		return unknownSeconds
	}
	off, count := 0.0, 0
	for other, seconds := range t.seconds {
		if theirs := t.settings.ServiceSeconds[other]; theirs > 0 {
			off += seconds / theirs
			count++
		}
	}
	if count == 0 {
		return profile
	}
	return profile * max(1.0, off/float64(count))
}

// most returns how many requests may be with the server at once.
func (t *Task) most() int {
	if len(t.versions) == 0 {
		return 1 << 30 // nothing to choose: it is the server's queue
	}
	return 1 + int(aheadSeconds/(t.service(t.versions[len(t.versions)-1])*t.server.stretch(t.sent > 0)))
}

// took counts requests that the server has of the task.
func (t *Task) took(more int) {
	before := t.sent
	t.sent += more
	if before == 0 && t.sent > 0 {
		t.server.busy.Add(1)
	}
	if before > 0 && t.sent == 0 {
		t.server.busy.Add(-1)
	}
}

func (t *Task) living() int {
	count := 0
	for _, ticket := range t.waiting {
		if !ticket.gone {
			count++
		}
	}
	return count
}

// dispatch sends as many of those that wait as the server may have.
func (t *Task) dispatch(now time.Time) {
	for len(t.waiting) > 0 && t.sent < t.most() {
		ticket := t.waiting[0]
		t.waiting[0] = nil
		t.waiting = t.waiting[1:]
		if ticket.gone {
			continue
		}
		t.send(ticket, now)
		close(ticket.turn)
	}
}

func (t *Task) send(ticket *Ticket, now time.Time) {
	ticket.stretch = t.server.stretch(t.sent > 0)
	t.took(1)
	ticket.sent, ticket.started, ticket.allocated = now, true, true
	if len(t.versions) == 0 {
		return
	}
	service := make([]float64, len(t.versions))
	for place, version := range t.versions {
		service[place] = t.service(version) * ticket.stretch
	}
	slo := t.settings.SLOSeconds
	unsure := deviations * t.off[t.versions[len(t.versions)-1]] * ticket.stretch
	slack := slo - min(mostMargin*slo, max(leastMargin*slo, unsure)) - now.Sub(ticket.arrived).Seconds()
	place := Choose(service, t.living(), slack)
	ticket.version, ticket.allocated = t.versions[place], place == len(t.versions)-1
}
