package h2

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"rung.dev/gate/fleet"
	"rung.dev/gate/wire"
)

const (
	model    = "digits"
	deadline = 20 * time.Second
)

// backend is a server that answers with what it was asked: name, version, and the rest, by a gRPC library.
type backend struct {
	unloaded sync.Map // versions that it does not have
	delay    atomic.Int64
	asked    atomic.Int64
}

func (b *backend) handle(_ any, call grpc.ServerStream) error {
	var request []byte
	if err := call.RecvMsg(&request); err != nil {
		return err
	}
	b.asked.Add(1)
	select {
	case <-time.After(time.Duration(b.delay.Load())):
	case <-call.Context().Done():
		return call.Context().Err()
	}
	var scanner wire.Scanner
	scanner.Feed(request)
	version := strings.TrimLeft(scanner.Version, "0")
	if _, gone := b.unloaded.Load(version); gone {
		return status.Errorf(codes.NotFound, "no version %s, 100 %% sure", version)
	}
	if version == "" {
		version = "3"
	}
	_ = call.SetHeader(metadata.Pairs("x-of", "the server"))
	var answer []byte
	answer = protowire.AppendTag(answer, 1, protowire.BytesType)
	answer = protowire.AppendString(answer, scanner.Name)
	answer = protowire.AppendTag(answer, 2, protowire.BytesType)
	answer = protowire.AppendString(answer, version)
	answer = protowire.AppendTag(answer, 6, protowire.BytesType)
	answer = protowire.AppendBytes(answer, request)
	return call.SendMsg(answer)
}

// site is a gate between a client and a backend.
type site struct {
	*backend
	proxy  *Proxy
	tasks  *fleet.Tasks
	client *grpc.ClientConn
}

// newSite has the gate choose for the model; settings are those of the task.
func newSite(t *testing.T, settings string) *site {
	t.Helper()
	b := &backend{}
	server := grpc.NewServer(
		grpc.ForceServerCodec(wire.Codec{}), grpc.UnknownServiceHandler(b.handle), grpc.MaxRecvMsgSize(64<<20),
	)
	address := listen(t, func(listener net.Listener) { _ = server.Serve(listener) })
	t.Cleanup(server.Stop)
	index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var loaded []map[string]string
		for _, version := range []string{"1", "2", "3"} {
			loaded = append(loaded, map[string]string{"name": model, "version": version, "state": "READY"})
		}
		_ = json.NewEncoder(w).Encode(loaded)
	}))
	t.Cleanup(index.Close)
	tasks := fleet.NewTasks(index.URL, fleet.NewMetrics(prometheus.NewRegistry()))
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(stop)
	file := filepath.Join(t.TempDir(), "tasks.json")
	if settings != "" {
		if err := os.WriteFile(file, fmt.Appendf(nil, `{"tasks": {%q: %s}}`, model, settings), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	go tasks.Run(ctx, file, 10*time.Millisecond)
	s := &site{backend: b, tasks: tasks, proxy: &Proxy{Server: address, Again: dial(t, address), Tasks: tasks}}
	s.client = dial(t, listen(t, func(listener net.Listener) { _ = s.proxy.Serve(ctx, listener) }))
	for end := time.Now().Add(deadline); settings != "" && (tasks.Get(model) == nil || len(tasks.Get(model).Service()) != 3); {
		if time.Now().After(end) {
			t.Fatal("the tasks are not known")
		}
		time.Sleep(time.Millisecond)
	}
	return s
}

func listen(t *testing.T, serve func(net.Listener)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go serve(listener)
	return listener.Addr().String()
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(
		"passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(wire.Codec{}), grpc.MaxCallRecvMsgSize(64<<20)),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func request(name string, size int) []byte {
	made := protowire.AppendTag(nil, 1, protowire.BytesType)
	made = protowire.AppendString(made, name)
	made = protowire.AppendTag(made, 7, protowire.BytesType)
	input := bytes.Repeat([]byte{0xa5}, size)
	return protowire.AppendBytes(made, input)
}

// ask asks once; returns the version that answered. The server must have got what was sent, and at most a tail behind it.
func (s *site) ask(ctx context.Context, sent []byte, options ...grpc.CallOption) (string, error) {
	var answer []byte
	if err := s.client.Invoke(ctx, inferMethod, sent, &answer, options...); err != nil {
		return "", err
	}
	var scanner wire.Scanner
	scanner.Feed(answer)
	_, _, n := protowire.ConsumeField(answer)
	_, _, m := protowire.ConsumeField(answer[n:])
	_, _, k := protowire.ConsumeTag(answer[n+m:])
	got, _ := protowire.ConsumeBytes(answer[n+m+k:])
	if extra := len(got) - len(sent); !bytes.HasPrefix(got, sent) || (extra != 0 && extra != wire.TailLength) {
		return "", fmt.Errorf("the server got %d bytes of %d", len(got), len(sent))
	}
	return scanner.Version, nil
}

func within(t *testing.T) context.Context {
	ctx, stop := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(stop)
	return ctx
}

const calm = `{"sloSeconds": 60, "serviceSeconds": {"1": 0.0001, "2": 0.0002, "3": 0.0003}}`

func TestMessagesOfAnySizePassUntouched(t *testing.T) {
	for name, settings := range map[string]string{"no task": "", "a task": calm} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, settings)
			for _, size := range []int{0, 1, 100, 16_300, 16_370, 16_384, 16_400, 65_500, 65_535, 70_000, 1 << 20, 9 << 20} {
				if version, err := s.ask(within(t), request(model, size)); err != nil || version != "3" {
					t.Errorf("%d bytes: version %q, %v", size, version, err)
				}
			}
		})
	}
}

func TestManyAtOnceOverOneConnection(t *testing.T) {
	s := newSite(t, calm)
	var clients sync.WaitGroup
	for place := range 300 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			if _, err := s.ask(within(t), request(model, 1000*(place%200))); err != nil {
				t.Errorf("%d: %v", place, err)
			}
		}()
	}
	clients.Wait()
	if pending := s.tasks.Get(model).Pending(); pending != 0 {
		t.Errorf("%d are pending", pending)
	}
}

func TestThousandsInARowLeakNoWindow(t *testing.T) {
	s := newSite(t, calm)
	message := request(model, 40_000)
	for range 4000 {
		if _, err := s.ask(within(t), message); err != nil {
			t.Fatal(err)
		}
	}
}

const busy = `{"sloSeconds": 0.4, "serviceSeconds": {"1": 0.001, "2": 0.01, "3": 0.1}}`

// burst asks so often at once; returns how often each version answered.
func (s *site) burst(t *testing.T, count int) map[string]int {
	var mu sync.Mutex
	var clients sync.WaitGroup
	found := map[string]int{}
	for range count {
		clients.Add(1)
		go func() {
			defer clients.Done()
			version, err := s.ask(within(t), request(model, 20_000))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			found[version]++
		}()
	}
	clients.Wait()
	return found
}

func TestABurstIsSpreadOverTheVersions(t *testing.T) {
	s := newSite(t, busy)
	s.delay.Store(int64(40 * time.Millisecond))
	if found := s.burst(t, 30); found["2"]+found["1"] == 0 || len(found) < 2 {
		t.Error(found)
	}
}

func TestAVersionThatWasUnloadedOnTheWayIsNoFailure(t *testing.T) {
	s := newSite(t, busy)
	s.delay.Store(int64(40 * time.Millisecond))
	s.unloaded.Store("1", true)
	s.unloaded.Store("2", true)
	if found := s.burst(t, 30); found["3"] != 30 {
		t.Error(found)
	}
	if asked := s.asked.Load(); asked <= 30 {
		t.Errorf("only %d were asked, so none a second time", asked)
	}
}

func TestWhoNamesAVersionGetsItOrHearsWhyNot(t *testing.T) {
	s := newSite(t, calm)
	named := protowire.AppendTag(request(model, 10), 2, protowire.BytesType) // behind everything else
	if version, err := s.ask(within(t), protowire.AppendString(named, "2")); err != nil || version != "2" {
		t.Errorf("version %q, %v", version, err)
	}
	s.unloaded.Store("2", true)
	_, err := s.ask(within(t), protowire.AppendString(named, "2"))
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "100 % sure") {
		t.Error(err)
	}
}

func TestBestEffortIsRefusedWithAMoment(t *testing.T) {
	s := newSite(t, `{"sloSeconds": 0.4, "bestEffort": true, "serviceSeconds": {"1": 0.1, "2": 0.2, "3": 0.3}}`)
	s.delay.Store(int64(100 * time.Millisecond))
	var refused, answered atomic.Int64
	var clients sync.WaitGroup
	for range 20 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			var trailer metadata.MD
			_, err := s.ask(within(t), request(model, 10), grpc.Trailer(&trailer))
			switch status.Code(err) {
			case codes.OK:
				answered.Add(1)
			case codes.ResourceExhausted:
				refused.Add(1)
				if wait := trailer.Get(pushback); len(wait) != 1 || wait[0] != "400" {
					t.Errorf("%v", trailer)
				}
			default:
				t.Error(err)
			}
		}()
	}
	clients.Wait()
	if refused.Load() == 0 || answered.Load() == 0 {
		t.Errorf("%d refused, %d answered", refused.Load(), answered.Load())
	}
}

func TestClientsThatGoAwayHoldNobodyUp(t *testing.T) {
	s := newSite(t, busy)
	s.delay.Store(int64(50 * time.Millisecond))
	var clients sync.WaitGroup
	for range 40 {
		clients.Add(1)
		go func() {
			defer clients.Done()
			ctx, stop := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer stop()
			_, _ = s.ask(ctx, request(model, 100_000))
		}()
	}
	clients.Wait()
	s.delay.Store(0)
	if _, err := s.ask(within(t), request(model, 10)); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(deadline); s.tasks.Get(model).Pending() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d are pending", s.tasks.Get(model).Pending())
		}
	}
}

func TestWhenItIsShutWhatIsUnderWayIsAnswered(t *testing.T) {
	s := newSite(t, calm)
	s.delay.Store(int64(200 * time.Millisecond))
	answered := make(chan error, 1)
	go func() {
		_, err := s.ask(within(t), request(model, 10))
		answered <- err
	}()
	for s.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.proxy.Shut(within(t))
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoHTTP2IsSentAway(t *testing.T) {
	s := newSite(t, calm)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.client.Target(), "passthrough:///"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("GET /v2/health/ready HTTP/1.1\r\nHost: here\r\n\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(deadline))
	for {
		if _, err := conn.Read(make([]byte, 4096)); err != nil {
			if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
				t.Error("it is kept waiting")
			}
			return
		}
	}
}
