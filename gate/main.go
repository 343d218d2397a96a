// Command gate stands in front of one Triton and chooses, for each request, which loaded version answers it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"rung.dev/gate/fleet"
	"rung.dev/gate/h2"
	"rung.dev/gate/proxy"
)

// largestAnswer is more than anything that is asked a second time.
const largestAnswer = 64 << 20

func main() {
	var (
		grpcAddress    = flag.String("grpc-address", ":8101", "where clients' gRPC calls come in")
		httpAddress    = flag.String("http-address", ":8100", "where clients' HTTP requests come in")
		metricsAddress = flag.String("metrics-address", ":8102", "where /metrics and /healthz are")
		tritonGRPC     = flag.String("triton-grpc", "127.0.0.1:8001", "Triton's gRPC port")
		tritonHTTP     = flag.String("triton-http", "http://127.0.0.1:8000", "Triton's HTTP port")
		tasksFile      = flag.String("tasks", "/run/rung/tasks.json", "the tasks whose versions are chosen here")
		every          = flag.Duration("index-every", 100*time.Millisecond, "how often Triton is asked what is loaded")
		procs          = flag.Int("procs", 1, "cores it may use at a time; with one, no request waits for another thread to wake")
		grace          = flag.Duration("grace", 20*time.Second, "how long requests may still take after SIGTERM")
	)
	flag.Parse()
	runtime.GOMAXPROCS(max(1, *procs))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, *grpcAddress, *httpAddress, *metricsAddress, *tritonGRPC, *tritonHTTP, *tasksFile, *every, *grace); err != nil {
		slog.Error("the gate ends", "error", err)
		os.Exit(1)
	}
}

func run(
	ctx context.Context, grpcAddress, httpAddress, metricsAddress, tritonGRPC, tritonHTTP, tasksFile string,
	every, grace time.Duration,
) error {
	triton, err := url.Parse(tritonHTTP)
	if err != nil {
		return fmt.Errorf("-triton-http: %w", err)
	}
	again, err := grpc.NewClient(
		"passthrough:///"+tritonGRPC,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestAnswer), grpc.MaxCallSendMsgSize(largestAnswer)),
	)
	if err != nil {
		return err
	}
	defer again.Close()
	metrics := fleet.NewMetrics(prometheus.DefaultRegisterer)
	tasks := fleet.NewTasks(tritonHTTP, metrics)
	metrics.Watch(tasks)
	go tasks.Run(ctx, tasksFile, every)

	calls := &h2.Proxy{Server: tritonGRPC, Again: again, Tasks: tasks}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	transport.Proxy = nil
	pages := http.NewServeMux()
	pages.Handle("/metrics", promhttp.Handler())
	pages.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	servers := []*http.Server{
		{Addr: httpAddress, Handler: proxy.NewHTTP(triton, tasks, transport), ReadHeaderTimeout: 10 * time.Second},
		{Addr: metricsAddress, Handler: pages, ReadHeaderTimeout: 10 * time.Second},
	}

	listener, err := net.Listen("tcp", grpcAddress)
	if err != nil {
		return err
	}
	ended := make(chan error, 1+len(servers))
	go func() { ended <- calls.Serve(ctx, listener) }()
	for _, server := range servers {
		go func() { ended <- server.ListenAndServe() }()
	}
	slog.Info("the gate is open", "grpc", grpcAddress, "http", httpAddress, "triton", tritonGRPC)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	listener.Close()
	return shut(calls, servers, grace)
}

// shut lets what is under way be answered.
func shut(calls *h2.Proxy, servers []*http.Server, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	calls.Shut(ctx)
	var faults []error
	for _, server := range servers {
		faults = append(faults, server.Shutdown(ctx))
	}
	return errors.Join(faults...)
}
