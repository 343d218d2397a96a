package reflex

import (
	"sync"
	"testing"
	"time"
)

var profile = map[int64]float64{1: 0.010, 2: 0.050, 3: 0.200}

func loaded(t *testing.T, versions ...int64) *Task {
	t.Helper()
	task := NewTask(&Server{}, Settings{SLOSeconds: 0.4, ServiceSeconds: profile})
	task.Load(versions)
	return task
}

// enter takes a request into the queue and waits for its turn.
func enter(task *Task, now time.Time) *Ticket {
	ticket, turn := task.Enter(now)
	if turn != nil {
		<-turn
	}
	return ticket
}

// fill has n requests arrive at a moment; the first is with the server, the others wait.
func fill(task *Task, n int, now time.Time) (first *Ticket, versions chan int64) {
	first, _ = task.Enter(now)
	versions = make(chan int64, n)
	var waiting sync.WaitGroup
	for range n - 1 {
		waiting.Add(1)
		go func() {
			waiting.Done()
			versions <- enter(task, now).Version()
		}()
	}
	waiting.Wait()
	for task.Pending() < n {
		time.Sleep(time.Millisecond)
	}
	return first, versions
}

func TestACalmTaskGetsTheAllocatedVersion(t *testing.T) {
	task := loaded(t, 3, 1, 2)
	if ticket, turn := task.Enter(time.Now()); turn != nil || ticket.Version() != 3 || !ticket.Allocated() {
		t.Fatalf("got %v", ticket)
	}
}

func TestABurstIsAnsweredByTheMostAccurateVersionThatIsInTime(t *testing.T) {
	for _, c := range []struct {
		waiting int
		version int64
	}{{1, 3}, {4, 2}, {20, 1}, {100, 1}} {
		task := loaded(t, 1, 2, 3)
		now := time.Now()
		first, versions := fill(task, 1+c.waiting, now)
		// The server answered at once: the next one has all of the service level's time left.
		task.Leave(first, now, false)
		if version := <-versions; version != c.version {
			t.Errorf("of %d that wait: version %d, not %d", c.waiting, version, c.version)
		}
	}
}

func TestOneRequestIsWithTheServerAtATimeWhereInferencesAreLong(t *testing.T) {
	task := loaded(t, 3)
	_, versions := fill(task, 5, time.Now())
	select {
	case <-versions:
		t.Fatal("two at a time")
	case <-time.After(20 * time.Millisecond):
	}
}

func TestShortInferencesAreSentAhead(t *testing.T) {
	task := NewTask(&Server{}, Settings{SLOSeconds: 0.4, ServiceSeconds: map[int64]float64{7: 0.0005}})
	task.Load([]int64{7})
	for range 5 {
		if _, turn := task.Enter(time.Now()); turn != nil {
			t.Fatal("it has to wait")
		}
	}
}

func TestServiceTimesAreLearnedAndUnknownOnesStretchedByTheKnown(t *testing.T) {
	task := loaded(t, 1, 3)
	now := time.Now()
	for range 60 { // the neighbours take half of the server: everything takes twice as long
		ticket := enter(task, now)
		now = now.Add(400 * time.Millisecond)
		ticket.sent = now.Add(-400 * time.Millisecond)
		task.Leave(ticket, now, true)
	}
	service := task.Service()
	if service[3] < 0.39 || service[3] > 0.41 {
		t.Errorf("observed: %v", service[3])
	}
	if service[1] < 0.018 || service[1] > 0.022 {
		t.Errorf("not observed, twice its profile: %v", service[1])
	}
}

func TestWhatIsUnderWayForOtherTasksStretchesAnInference(t *testing.T) {
	server := &Server{}
	server.SetCores(1)
	settings := Settings{SLOSeconds: 0.4, ServiceSeconds: map[int64]float64{1: 0.010, 2: 0.050, 3: 0.300}}
	one, other := NewTask(server, settings), NewTask(server, settings)
	for _, task := range []*Task{one, other} {
		task.Load([]int64{1, 2, 3})
	}
	first := enter(one, time.Now())
	if first.Version() != 3 {
		t.Fatalf("alone: %d", first.Version())
	}
	second := enter(other, time.Now())
	if second.Version() != 2 {
		t.Fatalf("two at 300 ms would both take 600 ms: %d", second.Version())
	}
	server.SetCores(2)
	other.Leave(second, time.Now(), false)
	if third := enter(other, time.Now()); third.Version() != 3 {
		t.Fatalf("on two cores: %d", third.Version())
	}
}

func TestWhatIsLearnedIsWhatItTakesAlone(t *testing.T) {
	server := &Server{}
	server.SetCores(1)
	settings := Settings{SLOSeconds: 0.4, ServiceSeconds: profile}
	one, other := NewTask(server, settings), NewTask(server, settings)
	one.Load([]int64{1, 2, 3})
	other.Load([]int64{2})
	now := time.Now()
	_ = enter(other, now) // and is under way all the time
	for range 40 {
		ticket := enter(one, now)
		ticket.sent, ticket.version = now, 2
		now = now.Add(100 * time.Millisecond)
		one.Leave(ticket, now, true)
	}
	if seconds := one.Service()[2]; seconds < 0.049 || seconds > 0.051 {
		t.Errorf("100 ms beside another one are 50 ms alone, not %v", seconds)
	}
}

func TestAVersionWhoseTimesVaryKeepsMoreOfTheServiceLevel(t *testing.T) {
	server := &Server{}
	server.SetCores(1)
	task := NewTask(server, Settings{SLOSeconds: 0.4, ServiceSeconds: map[int64]float64{1: 0.010, 2: 0.350}})
	task.Load([]int64{1, 2})
	now := time.Now()
	answer := func(took time.Duration) int64 {
		ticket := enter(task, time.Now())
		version := ticket.Version()
		ticket.sent, ticket.version = now, 2
		now = now.Add(took)
		task.Leave(ticket, now, true)
		return version
	}
	for range 40 {
		if version := answer(350 * time.Millisecond); version != 2 {
			t.Fatalf("350 ms, always, are in time: %d", version)
		}
	}
	for range 40 {
		answer(320 * time.Millisecond)
		answer(380 * time.Millisecond)
	}
	if version := answer(350 * time.Millisecond); version != 1 {
		t.Fatalf("350 ms, more or less, are not always in time: %d", version)
	}
}

func TestWhoGoesAwayGivesUpItsPlace(t *testing.T) {
	task := loaded(t, 3)
	first, _ := task.Enter(time.Now())
	second, turn := task.Enter(time.Now())
	third, after := task.Enter(time.Now())
	task.Cancel(second)
	if pending := task.Pending(); pending != 2 {
		t.Fatalf("%d are pending", pending)
	}
	task.Leave(first, time.Now(), false)
	<-after
	select {
	case <-turn:
		t.Fatal("it had its turn after it had gone")
	default:
	}
	fourth, last := task.Enter(time.Now())
	task.Cancel(third) // its turn had come, and it was not sent
	<-last
	task.Leave(fourth, time.Now(), true)
	if pending := task.Pending(); pending != 0 {
		t.Fatalf("%d are pending", pending)
	}
}

func TestWithoutLoadedVersionsTheServerDecides(t *testing.T) {
	task := loaded(t)
	for range 50 {
		if ticket, turn := task.Enter(time.Now()); turn != nil || ticket.Version() != 0 || !ticket.Allocated() {
			t.Fatal(ticket)
		}
	}
}

func TestItIsLateWhenNotEvenTheCheapestVersionWouldBeInTime(t *testing.T) {
	task := loaded(t, 1, 2)
	_, _ = fill(task, 30, time.Now())
	if task.Late() {
		t.Error("30 x 10 ms are in time")
	}
	for range 12 {
		_, _ = task.Enter(time.Now())
	}
	for task.Pending() < 42 {
		time.Sleep(time.Millisecond)
	}
	if !task.Late() {
		t.Error("more than 40 x 10 ms are not")
	}
}
