// Package proxy stands between clients and one Triton for the HTTP of the KServe v2 protocol.
package proxy

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"rung.dev/gate/fleet"
	"rung.dev/gate/reflex"
)

// HTTP hands every request on to the server. Inferences of a task wait for their turn and get a version.
type HTTP struct {
	tasks *fleet.Tasks
	proxy *httputil.ReverseProxy
}

// NewHTTP returns a proxy to Triton's HTTP port.
func NewHTTP(triton *url.URL, tasks *fleet.Tasks, transport http.RoundTripper) HTTP {
	proxy := httputil.NewSingleHostReverseProxy(triton)
	proxy.Transport = transport
	return HTTP{tasks, proxy}
}

// task returns the task that a path asks without a version: /v2/models/NAME/infer.
func (h HTTP) task(request *http.Request) *fleet.Named {
	name, found := strings.CutPrefix(request.URL.Path, "/v2/models/")
	if !found || request.Method != http.MethodPost {
		return nil
	}
	name, found = strings.CutSuffix(name, "/infer")
	if !found || strings.Contains(name, "/") {
		return nil
	}
	return h.tasks.Get(name)
}

// ServeHTTP implements http.Handler.
func (h HTTP) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	task := h.task(request)
	if task == nil {
		h.proxy.ServeHTTP(writer, request)
		return
	}
	began := time.Now()
	task.Arrived()
	if h.tasks.Refuses(task) {
		task.Refused()
		writer.Header().Set("Content-Type", "application/json")
		writer.Header().Set("Retry-After", strconv.Itoa(max(1, int(task.SLO().Seconds()+0.5))))
		writer.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprintf(writer, `{"error":"%s is best effort, and there is no room for it now"}`, task.Name)
		return
	}
	ticket, turn := task.Enter(began)
	if turn != nil {
		select {
		case <-turn:
		case <-request.Context().Done():
			task.Cancel(ticket)
			task.Ended(began, "cancelled", 0)
			return
		}
	}
	answer := &recorder{ResponseWriter: writer, status: http.StatusOK}
	defer h.leave(task, ticket, began, answer)
	if version := ticket.Version(); version != 0 && !ticket.Allocated() {
		request.URL.Path = fmt.Sprintf("/v2/models/%s/versions/%d/infer", task.Name, version)
		request.URL.RawPath = ""
	}
	h.proxy.ServeHTTP(answer, request)
}

func (h HTTP) leave(task *fleet.Named, ticket *reflex.Ticket, began time.Time, answer *recorder) {
	outcome := "answered"
	if answer.status >= http.StatusBadRequest {
		outcome = "failed"
	}
	task.Leave(ticket, time.Now(), outcome == "answered")
	task.Ended(began, outcome, ticket.Version())
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach what is below.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
