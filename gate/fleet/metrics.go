package fleet

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what clients saw: the truth that a server behind a queue can't tell.
type Metrics struct {
	requests *prometheus.CounterVec
	late     *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	tasks    *Tasks
}

type meter struct {
	metrics *Metrics
	name    string
	latency prometheus.Observer
	late    prometheus.Counter
}

var (
	pendingGauge = prometheus.NewDesc("rung_gate_pending_requests", "Requests that wait or are with the server.", []string{"task"}, nil)
	serviceGauge = prometheus.NewDesc("rung_gate_service_seconds", "What an inference takes at present, as observed, else by its profile.", []string{"task", "version"}, nil)
)

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	metrics := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rung_gate_requests_total", Help: "Requests by outcome: answered, failed, cancelled, refused.",
		}, []string{"task", "version", "outcome"}),
		late: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rung_gate_late_total", Help: "Answers that took longer than the service level, from arrival to answer.",
		}, []string{"task"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rung_gate_latency_seconds", Help: "From arrival to answer.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .3, .4, .5, .75, 1, 2, 5},
		}, []string{"task"}),
	}
	registry.MustRegister(metrics.requests, metrics.late, metrics.latency, metrics)
	return metrics
}

// Watch has the gauges tell of these tasks.
func (m *Metrics) Watch(tasks *Tasks) { m.tasks = tasks }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- pendingGauge
	descriptions <- serviceGauge
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(values chan<- prometheus.Metric) {
	if m.tasks == nil {
		return
	}
	for name, task := range *m.tasks.byName.Load() {
		values <- prometheus.MustNewConstMetric(pendingGauge, prometheus.GaugeValue, float64(task.Waiting()), name)
		for version, seconds := range task.Service() {
			values <- prometheus.MustNewConstMetric(serviceGauge, prometheus.GaugeValue, seconds, name, strconv.FormatInt(version, 10))
		}
	}
}

func (m *Metrics) of(name string) *meter {
	return &meter{m, name, m.latency.WithLabelValues(name), m.late.WithLabelValues(name)}
}

// Answered counts a request that reached the server, or was to. Version 0: the server chose.
func (n *Named) Answered(began time.Time, outcome string, version int64) {
	took := time.Since(began)
	if outcome == "answered" {
		n.meter.latency.Observe(took.Seconds())
		if took > n.SLO() {
			n.meter.late.Inc()
		}
	}
	n.meter.metrics.requests.WithLabelValues(n.Name, strconv.FormatInt(version, 10), outcome).Inc()
}

// Refused counts a request that was refused.
func (n *Named) Refused() { n.meter.metrics.requests.WithLabelValues(n.Name, "0", "refused").Inc() }
