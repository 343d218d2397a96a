package fleet

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// triton answers every question for its index with a text.
func triton(t *testing.T, index *string) *Tasks {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(response http.ResponseWriter, _ *http.Request) {
		_, _ = response.Write([]byte(*index))
	}))
	t.Cleanup(server.Close)
	tasks := NewTasks(server.URL, NewMetrics(prometheus.NewRegistry()))
	path := filepath.Join(t.TempDir(), "tasks.json")
	settings := `{"cores": 1, "tasks": {"digits": {"sloSeconds": 0.4, "serviceSeconds": {"1": 0.01, "2": 0.3}}}}`
	if err := os.WriteFile(path, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tasks.Configure(path); err != nil {
		t.Fatal(err)
	}
	return tasks
}

func answers(t *testing.T, tasks *Tasks) int64 {
	t.Helper()
	if err := tasks.index(context.Background()); err != nil {
		t.Fatal(err)
	}
	task := tasks.Get("digits")
	ticket, turn := task.Enter(time.Now())
	if turn != nil {
		t.Fatal("a calm task's request waits")
	}
	defer task.Leave(ticket, time.Now(), false)
	return ticket.Version()
}

func TestALoadTakesItsPartOfTheCores(t *testing.T) {
	ready := `{"name": "digits", "version": "1", "state": "READY"}, {"name": "digits", "version": "2", "state": "READY"}`
	loading := `, {"name": "parity", "version": "7", "state": "LOADING"}`
	index := "[" + ready + "]"
	tasks := triton(t, &index)
	if version := answers(t, tasks); version != 2 {
		t.Fatalf("calm: %d", version)
	}
	index = "[" + ready + loading + "]"
	if version := answers(t, tasks); version != 1 {
		t.Fatalf("0.3 s beside a load are 0.6 s: %d", version)
	}
	index = "[" + ready + `, {"name": "parity", "version": "7", "state": "READY"}, {"name": "parity", "version": "8"}]`
	if version := answers(t, tasks); version != 2 {
		t.Fatalf("it is loaded: %d", version)
	}
}

func TestALoadThatHangsTakesNothing(t *testing.T) {
	now, hung := time.Now(), indexed{"parity", "7", "LOADING"}
	seen := loads{}
	for _, c := range []struct {
		after   time.Duration
		loading []indexed
		working int
	}{
		{0, []indexed{hung}, 1},
		{longestLoad - time.Second, []indexed{hung, {"digits", "1", "LOADING"}}, 2},
		{longestLoad, []indexed{hung, {"digits", "1", "LOADING"}}, 1},
		{longestLoad + time.Second, nil, 0},
		{longestLoad + 2*time.Second, []indexed{hung}, 1},
	} {
		if working := seen.working(now.Add(c.after), c.loading); working != c.working {
			t.Fatalf("after %v: %d, not %d", c.after, working, c.working)
		}
	}
}
