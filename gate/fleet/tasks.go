// Package fleet knows the tasks of one server: what their owners want, and what is loaded.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rung.dev/gate/reflex"
)

// Named is a task with its name and its counters.
type Named struct {
	*reflex.Task
	Name  string
	meter meter
}

// Tasks are the tasks whose requests get a version here. Everything else is handed on as it is.
type Tasks struct {
	tritonURL string
	client    *http.Client
	metrics   *Metrics
	server    reflex.Server
	byName    atomic.Pointer[map[string]*Named]
	look      chan struct{}
	loading   loads      // of index alone
	mu        sync.Mutex // of what follows
	written   time.Time
}

// NewTasks returns no tasks yet. tritonURL is where Triton's HTTP port is, such as http://127.0.0.1:8000.
func NewTasks(tritonURL string, metrics *Metrics) *Tasks {
	tasks := &Tasks{
		tritonURL: strings.TrimSuffix(tritonURL, "/"),
		client:    &http.Client{Timeout: 5 * time.Second},
		metrics:   metrics,
		look:      make(chan struct{}, 1),
		loading:   loads{},
	}
	tasks.byName.Store(&map[string]*Named{})
	return tasks
}

// Get returns a task; nil where its requests are none of our business.
func (t *Tasks) Get(name string) *Named { return (*t.byName.Load())[name] }

// Refuses tells whether a request of this task has to be refused: it may be, and one that may not would be late.
func (t *Tasks) Refuses(task *Named) bool {
	if !task.BestEffort() {
		return false
	}
	for _, other := range *t.byName.Load() {
		if other.Late() {
			return true
		}
	}
	return false
}

// Look asks for a fresh view of what is loaded.
func (t *Tasks) Look() {
	select {
	case t.look <- struct{}{}:
	default:
	}
}

// Configuration is the file that the operator's agent writes.
type Configuration struct {
	// Cores that the server may use; 0: not known.
	Cores float64                    `json:"cores"`
	Tasks map[string]reflex.Settings `json:"tasks"`
}

// Configure reads the file if it changed. What can't be read changes nothing.
func (t *Tasks) Configure(path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	information, err := os.Stat(path)
	if err != nil {
		return err
	}
	if information.ModTime().Equal(t.written) {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	t.written = information.ModTime() // a file that can't be understood is told of once
	var configuration Configuration
	if err := json.Unmarshal(content, &configuration); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	before, after := *t.byName.Load(), map[string]*Named{}
	for name, settings := range configuration.Tasks {
		if settings.SLOSeconds <= 0 {
			return fmt.Errorf("%s: sloSeconds of %s must be above 0", path, name)
		}
		task := before[name]
		if task == nil {
			task = &Named{Task: reflex.NewTask(&t.server, settings), Name: name, meter: t.metrics.of(name)}
		}
		task.Configure(settings)
		after[name] = task
	}
	t.server.SetCores(configuration.Cores)
	t.byName.Store(&after)
	for name := range before {
		if after[name] == nil {
			t.metrics.forget(name)
		}
	}
	t.Look()
	return nil
}

// Run keeps the view of what is loaded fresh until the context ends.
func (t *Tasks) Run(ctx context.Context, path string, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	told := map[string]string{}
	for {
		for what, err := range map[string]error{"configuration": t.Configure(path), "index": t.index(ctx)} {
			if errors.Is(err, os.ErrNotExist) || ctx.Err() != nil {
				err = nil
			}
			if err != nil && told[what] != err.Error() {
				slog.Error("what was known goes on", "of", what, "error", err)
			}
			told[what] = fmt.Sprint(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-t.look:
		}
	}
}

type indexed struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	State   string `json:"state"`
}

// largestIndex is more than the index of a thousand models with ten versions each.
const largestIndex = 16 << 20

// longestLoad is how long a load is taken for work: one that takes longer hangs more likely, and takes no CPU.
const longestLoad = 30 * time.Second

// loads are the versions that are being loaded, and since when that was seen.
type loads map[indexed]time.Time

// working takes what is being loaded now, and returns how many of these loads share the server's cores.
func (l loads) working(now time.Time, loading []indexed) int {
	for version := range l {
		if !slices.Contains(loading, version) {
			delete(l, version)
		}
	}
	count := 0
	for _, version := range loading {
		if _, known := l[version]; !known {
			l[version] = now
		}
		if now.Sub(l[version]) < longestLoad {
			count++
		}
	}
	return count
}

// index asks Triton which versions are loaded, and which are being loaded.
func (t *Tasks) index(ctx context.Context) error {
	url := t.tritonURL + "/v2/repository/index"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{}`))
	if err != nil {
		return err
	}
	response, err := t.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, response.Status)
	}
	var models []indexed
	if err := json.NewDecoder(io.LimitReader(response.Body, largestIndex)).Decode(&models); err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	loaded, loading := map[string][]int64{}, []indexed{}
	for _, model := range models {
		version, err := strconv.ParseInt(model.Version, 10, 64)
		if err != nil || version <= 0 {
			continue
		}
		switch model.State {
		case "READY":
			loaded[model.Name] = append(loaded[model.Name], version)
		case "LOADING":
			loading = append(loading, model)
		}
	}
	t.server.SetLoading(t.loading.working(time.Now(), loading))
	for name, task := range *t.byName.Load() {
		task.Load(loaded[name])
	}
	return nil
}
