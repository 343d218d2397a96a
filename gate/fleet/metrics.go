package fleet

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what clients saw: the truth that a server behind a queue can't tell. The label model is that of Triton's
// own metrics, so that both can be read alike.
type Metrics struct {
	arrivals *prometheus.CounterVec
	late     *prometheus.CounterVec
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	tasks    *Tasks
}

type meter struct {
	arrivals prometheus.Counter
	late     prometheus.Counter
	requests *prometheus.CounterVec
	latency  prometheus.Observer
}

var (
	waitingGauge = prometheus.NewDesc(
		"rung_gate_waiting_requests", "Requests that wait for their turn, here or at the server.", []string{"model"}, nil)
	serviceGauge = prometheus.NewDesc(
		"rung_gate_service_seconds", "What an inference takes alone, as observed, else by its profile.", []string{"model", "version"}, nil)
)

// NewMetrics registers the metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	metrics := &Metrics{
		arrivals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rung_gate_arrivals_total", Help: "Requests that came, whatever became of them.",
		}, []string{"model"}),
		late: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rung_gate_late_total",
			Help: "Requests that took longer than the service level, from arrival to answer, or until the client gave up.",
		}, []string{"model"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rung_gate_requests_total", Help: "Requests by outcome: answered, failed, cancelled, refused.",
		}, []string{"model", "version", "outcome"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rung_gate_latency_seconds", Help: "From arrival to answer.",
			Buckets: []float64{.001, .002, .005, .01, .02, .05, .1, .2, .3, .4, .5, .75, 1, 2, 5},
		}, []string{"model"}),
	}
	registry.MustRegister(metrics.arrivals, metrics.late, metrics.requests, metrics.latency, metrics)
	return metrics
}

// Watch has the gauges tell of these tasks.
func (m *Metrics) Watch(tasks *Tasks) { m.tasks = tasks }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- waitingGauge
	descriptions <- serviceGauge
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(values chan<- prometheus.Metric) {
	if m.tasks == nil {
		return
	}
	for name, task := range *m.tasks.byName.Load() {
		values <- prometheus.MustNewConstMetric(waitingGauge, prometheus.GaugeValue, float64(max(0, task.Pending()-1)), name)
		for version, seconds := range task.Service() {
			values <- prometheus.MustNewConstMetric(serviceGauge, prometheus.GaugeValue, seconds, name, strconv.FormatInt(version, 10))
		}
	}
}

func (m *Metrics) of(name string) meter {
	return meter{
		m.arrivals.WithLabelValues(name), m.late.WithLabelValues(name),
		m.requests.MustCurryWith(prometheus.Labels{"model": name}), m.latency.WithLabelValues(name),
	}
}

// forget ends the series of a task that is none any more: a counter that stands still would say that nobody asks.
func (m *Metrics) forget(name string) {
	label := prometheus.Labels{"model": name}
	for _, each := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.arrivals, m.late, m.requests, m.latency} {
		each.DeletePartialMatch(label)
	}
}

// Arrived counts a request.
func (n *Named) Arrived() { n.meter.arrivals.Inc() }

// Ended counts what became of a request that was not refused. Version 0: the server chose.
func (n *Named) Ended(began time.Time, outcome string, version int64) {
	took := time.Since(began)
	if outcome == "answered" {
		n.meter.latency.Observe(took.Seconds())
	}
	if took > n.SLO() {
		n.meter.late.Inc()
	}
	n.meter.requests.WithLabelValues(strconv.FormatInt(version, 10), outcome).Inc()
}

// Refused counts a request that was refused.
func (n *Named) Refused() { n.meter.requests.WithLabelValues("0", "refused").Inc() }
