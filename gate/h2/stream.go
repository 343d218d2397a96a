package h2

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"rung.dev/gate/fleet"
	"rung.dev/gate/reflex"
	"rung.dev/gate/wire"
)

const (
	inferMethod = "/inference.GRPCInferenceService/ModelInfer"
	// prefixLength is that of gRPC's prefix of a message: whether it is compressed, and its length.
	prefixLength = 5
	// largestKept is the largest message that can be asked again.
	largestKept = 16 << 20
	// pushback is gRPC's standard way to say when to ask again (gRFC A6), milliseconds.
	pushback = "grpc-retry-pushback-ms"

	codeNotFound          = "5"
	codeUnavailable       = "14"
	codeResourceExhausted = 8
	againFor              = 30 * time.Second
)

// buffers are of messages that have been answered.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// stream is one inference of a task on its way. Before its first bytes tell whose it is, it may be anybody's.
type stream struct {
	connection *connection
	id         uint32
	began      time.Time
	gone       chan struct{} // closed when nobody waits for the answer any more

	// What the client's side of the connection alone touches.
	named   bool
	request wire.Scanner
	kept    []byte

	mu       sync.Mutex   // of what follows
	task     *fleet.Named // nil until it is known to be a task's
	ticket   *reflex.Ticket
	asked    int64 // the version that was appended; 0: none
	sent     bool
	ended    bool
	begun    bool // the answer's headers have gone to the client
	answered wire.Scanner
}

// ------------------------------------------------------------------------------------------------------- the request

// take takes one frame of the message.
func (s *stream) take(f frame) error {
	c := s.connection
	payload := f.content()
	if !s.named {
		if !s.identify(payload) {
			c.forget(s)
			c.server.Lock()
			c.server.raw(f.raw)
			c.server.Unlock()
			return nil
		}
		length := binary.BigEndian.Uint32(payload[1:])
		binary.BigEndian.PutUint32(payload[1:], length+wire.TailLength)
		s.keep(payload[prefixLength:])
	} else {
		s.request.Feed(payload)
		s.keep(payload)
	}
	if !f.endsStream() {
		c.server.Lock()
		c.server.head(frameData, 0, s.id, len(payload))
		c.server.raw(payload)
		c.server.Unlock()
		return nil
	}
	s.enter(payload)
	return nil
}

// identify tells whether the first bytes are those of a task's request whose version is chosen here.
func (s *stream) identify(payload []byte) bool {
	s.named = true
	if len(payload) <= prefixLength || payload[0] != 0 {
		return false
	}
	length := binary.BigEndian.Uint32(payload[1:])
	s.request.Feed(payload[prefixLength:])
	if s.request.Err != nil || s.request.Name == "" || s.request.Version != "" || length > 1<<32-1-wire.TailLength {
		return false
	}
	task := s.connection.proxy.Tasks.Get(s.request.Name)
	if task == nil {
		return false
	}
	c := s.connection
	c.server.Lock()
	defer c.server.Unlock()
	if c.appended+wire.TailLength > reserve {
		return false // the server has not given back what was appended before: it may have no room for more
	}
	c.appended += wire.TailLength
	s.mu.Lock()
	s.task = task
	s.mu.Unlock()
	s.kept = (*buffers.Get().(*[]byte))[:0]
	task.Arrived()
	return true
}

func (s *stream) keep(bytes []byte) {
	if len(s.kept)+len(bytes) <= largestKept {
		s.kept = append(s.kept, bytes...)
	}
}

// enter waits for the request's turn with its last bytes, or refuses it. The bytes are valid until it returns.
func (s *stream) enter(last []byte) {
	if s.connection.proxy.Tasks.Refuses(s.task) {
		s.refuse()
		return
	}
	ticket, turn := s.task.Enter(s.began)
	s.mu.Lock()
	s.ticket = ticket
	ended := s.ended
	s.mu.Unlock()
	if ended { // the server refused it before it was whole
		s.task.Cancel(ticket)
		return
	}
	if turn == nil {
		s.send(last, false)
		return
	}
	last = append([]byte(nil), last...)
	go func() {
		select {
		case <-turn:
			s.send(last, true)
		case <-s.gone:
		}
	}()
}

// send gives the server the last bytes of the message, with the version.
func (s *stream) send(last []byte, flush bool) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.sent = true
	// The allocated version is not named: one that the operator has just replaced would be missed. Who named a version
	// further behind in the message, has it.
	if s.request.Version == "" && !s.ticket.Allocated() {
		s.asked = s.ticket.Version()
	}
	tail := wire.Tail(s.asked)
	s.mu.Unlock()
	w := &s.connection.server
	w.Lock()
	defer w.Unlock()
	if len(last)+len(tail) <= smallestFrame {
		w.head(frameData, flagEndStream, s.id, len(last)+len(tail))
		w.raw(last)
		w.raw(tail[:])
	} else {
		w.head(frameData, 0, s.id, len(last))
		w.raw(last)
		w.data(s.id, tail[:], true)
	}
	if flush {
		_ = w.flush() // who reads this connection hears of it
	}
}

// endEarly completes a message whose stream ends with headers.
func (s *stream) endEarly() {
	if s.task == nil {
		s.connection.forget(s)
		return
	}
	tail := wire.Tail(0)
	w := &s.connection.server
	w.Lock()
	w.data(s.id, tail[:], false)
	w.Unlock()
	s.end("failed")
}

// refuse tells the client to come again later.
func (s *stream) refuse() {
	if !s.finish() {
		return
	}
	s.task.Refused()
	wait := s.task.SLO()
	words := fmt.Sprintf("%s is best effort, and there is no room for it now: ask again in %v", s.task.Name, wait)
	s.reply(nil, statusFields(codeResourceExhausted, words, pushback, strconv.FormatInt(wait.Milliseconds(), 10)))
	c := s.connection
	c.server.Lock()
	c.server.word(frameReset, s.id, cancel)
	c.server.Unlock()
}

// ---------------------------------------------------------------------------------------------------------- the answer

// answer looks at one frame of the answer.
func (s *stream) answer(f frame) {
	if s.owner() == nil || s.answered.Version != "" || s.answered.Err != nil {
		return
	}
	content := f.content()
	if s.answered.Name == "" && len(content) > prefixLength {
		content = content[prefixLength:]
	}
	s.answered.Feed(content)
}

// answerHeaders looks at headers or trailers of the answer; false: they are not for the client.
func (s *stream) answerHeaders(fields []hpack.HeaderField, ends bool) bool {
	if s.owner() == nil {
		if ends {
			s.connection.forget(s)
		}
		return true
	}
	if !ends {
		s.mu.Lock()
		s.begun = true
		s.mu.Unlock()
		return true
	}
	code := "2" // without a status it is unknown
	for _, field := range fields {
		if field.Name == "grpc-status" {
			code = field.Value
		}
	}
	s.mu.Lock()
	vanished := (code == codeNotFound || code == codeUnavailable) && s.asked != 0 && !s.begun && !s.ended
	s.mu.Unlock()
	if vanished && len(s.kept) < largestKept {
		// It was unloaded between the choice and its arrival: whatever is loaded answers.
		s.connection.proxy.Tasks.Look()
		go s.again()
		return false
	}
	switch code {
	case "0":
		s.end("answered")
	case "1", "4":
		s.end("cancelled")
	default:
		s.end("failed")
	}
	return true
}

// again asks the server without a version, beside this connection: the stream's number is used up.
func (s *stream) again() {
	ctx, stop := context.WithTimeout(context.Background(), againFor)
	defer stop()
	go func() {
		select {
		case <-s.gone:
			stop()
		case <-ctx.Done():
		}
	}()
	var answer []byte
	err := s.connection.proxy.Again.Invoke(ctx, inferMethod, s.kept, &answer, grpc.ForceCodec(wire.Codec{}))
	if err != nil {
		told := status.Convert(err)
		if s.end("failed") {
			s.reply(nil, statusFields(uint32(told.Code()), told.Message()))
		}
		return
	}
	s.answered.Feed(answer)
	if s.end("answered") {
		s.reply(answer, statusFields(0, ""))
	}
}

// reply writes an answer of the gate's own.
func (s *stream) reply(message []byte, trailers []hpack.HeaderField) {
	c := s.connection
	c.client.Lock()
	defer c.client.Unlock()
	if message == nil {
		c.client.headers(s.id, c.encoder.encode(append(answerFields(), trailers...)), true)
	} else {
		c.client.headers(s.id, c.encoder.encode(answerFields()), false)
		framed := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
		framed = append(framed, message...)
		c.client.data(s.id, framed, false)
		// The client gives this back of its window, and the server never took it.
		c.replied += uint32(len(framed))
		c.client.headers(s.id, c.encoder.encode(trailers), true)
	}
	_ = c.client.flush()
}

// ------------------------------------------------------------------------------------------------------------- its end

// reset ends a stream whose client has gone.
func (s *stream) reset() {
	if s.task == nil {
		s.connection.forget(s)
		return
	}
	s.end("cancelled")
}

// end counts what became of the request, once; false: it had ended before.
func (s *stream) end(outcome string) bool {
	if !s.finish() {
		return false
	}
	s.mu.Lock()
	ticket, sent, version := s.ticket, s.sent, s.asked
	s.mu.Unlock()
	if outcome == "answered" {
		if told, err := strconv.ParseInt(s.answered.Version, 10, 64); err == nil {
			version = told
		}
	}
	switch {
	case ticket == nil:
	case sent:
		s.task.Leave(ticket, time.Now(), outcome == "answered" && version == ticket.Version())
	default:
		s.task.Cancel(ticket)
	}
	s.task.Ended(s.began, outcome, version)
	if outcome == "answered" && cap(s.kept) <= largestKept/4 { // of those alone is it certain that nobody reads it any more
		buffers.Put(&s.kept)
	}
	return true
}

// owner returns whose request it is, for whoever does not read it.
func (s *stream) owner() *fleet.Named {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.task
}

// finish takes the stream out of its connection.
func (s *stream) finish() bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.ended = true
	close(s.gone)
	s.mu.Unlock()
	s.connection.forget(s)
	return true
}
