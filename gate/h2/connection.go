package h2

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"rung.dev/gate/wire"
)

const (
	// reserve is what the client's connection window is smaller than the server's: room for what is appended.
	reserve = 16 << 10
	// longestHeaders is more than any client sends, and what one may make the gate keep.
	longestHeaders = 1 << 20
	// defaultWindow and defaultTable hold until a peer says otherwise (RFC 9113, section 6.5.2).
	defaultWindow = 65535
	defaultTable  = 4096
	// connectAgain and connectFor: a server that starts again is waited for, rather than its clients sent away.
	connectAgain = 50 * time.Millisecond
	connectFor   = 10 * time.Second

	noError = 0x0
	cancel  = 0x8
	// lastStream is every stream that there can be.
	lastStream = 1<<31 - 1
)

// connection is one client's, and the one to the server that belongs to it.
type connection struct {
	proxy  *Proxy
	client writer
	server writer
	// What the server will give back of its window that the client never took: with the server's lock.
	reserved, appended uint32
	// What the client will give back that the server never took: with the client's lock.
	replied uint32

	mu       sync.Mutex // of what follows
	streams  map[uint32]*stream
	requests *hpack.Decoder // reads what the client wrote; touched by upward alone, but for its limit
	path     string
	block    []byte
	answers  *hpack.Decoder // touched by downward alone
	fields   []hpack.HeaderField
	encoder  *headerEncoder // with the client's lock, as is:
	settled  bool           // the server has sent its settings
}

func newConnection(proxy *Proxy, client net.Conn) *connection {
	c := &connection{proxy: proxy, client: writer{conn: client}, streams: map[uint32]*stream{}, reserved: reserve}
	c.requests = hpack.NewDecoder(defaultTable, func(field hpack.HeaderField) {
		if field.Name == ":path" {
			c.path = field.Value
		}
	})
	c.requests.SetMaxStringLength(longestHeaders)
	c.answers = hpack.NewDecoder(defaultTable, func(field hpack.HeaderField) { c.fields = append(c.fields, field) })
	c.encoder = newHeaderEncoder()
	return c
}

// run serves the client until one of both sides goes away.
func (c *connection) run(ctx context.Context) error {
	server, err := c.connect(ctx)
	if err != nil {
		return err
	}
	c.server.conn = server
	ended := make(chan error, 2)
	go func() { ended <- c.upward(newReader(c.client.conn)) }()
	go func() { ended <- c.downward(newReader(server)) }()
	err = <-ended
	c.client.conn.Close()
	server.Close()
	<-ended
	c.abandon()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// connect waits a while for a server that is not there.
func (c *connection) connect(ctx context.Context) (net.Conn, error) {
	ctx, stop := context.WithTimeout(ctx, connectFor)
	defer stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.proxy.Server)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(connectAgain):
		}
	}
}

// ------------------------------------------------------------------------------------------- from the client upward

func (c *connection) upward(from *reader) error {
	hello, err := from.buffer.Peek(len(preface))
	if err != nil {
		return err
	}
	if string(hello) != preface {
		return errors.New("a client that does not speak HTTP/2 (is it the other port?)")
	}
	c.server.Lock()
	c.server.raw(hello)
	c.server.Unlock()
	from.last = len(preface)
	return pump(from, &c.server, c.take)
}

// take takes one frame of the client.
func (c *connection) take(f frame, from *reader) error {
	switch f.kind {
	case frameHeaders:
		return c.takeHeaders(f, from)
	case frameData:
		if s := c.stream(f.stream); s != nil {
			return s.take(f)
		}
	case frameReset:
		if s := c.stream(f.stream); s != nil {
			s.reset()
		}
	case frameSettings:
		if f.isNewSettings() {
			eachSetting(f.payload(), func(id uint16, value []byte) {
				if id == settingTableSize {
					size := binary.BigEndian.Uint32(value)
					c.client.Lock()
					c.encoder.limit(size)
					c.client.Unlock()
					// What the server may use to write to the client: it hears of it below.
					c.mu.Lock()
					c.answers.SetAllowedMaxDynamicTableSize(size)
					c.mu.Unlock()
				}
			})
		}
	case frameWindowUpdate:
		if f.stream == 0 && len(f.payload()) == 4 {
			widen(f, &c.client, &c.server, &c.replied)
			return nil
		}
	}
	c.server.Lock()
	c.server.raw(f.raw)
	c.server.Unlock()
	return nil
}

// takeHeaders takes a block of headers, which may come in several frames, and none between them.
func (c *connection) takeHeaders(f frame, from *reader) error {
	id, ends := f.stream, f.endsStream()
	c.path, c.block = "", c.block[:0]
	s := c.stream(id)
	if s != nil {
		s.endEarly() // the message has no last frame to append to
	}
	err := c.decode(c.requests, f, from, func(part frame) { c.block = append(c.block, part.raw...) })
	if err != nil {
		return err
	}
	c.server.Lock()
	c.server.raw(c.block)
	c.server.Unlock()
	if s == nil && c.path == inferMethod && !ends {
		c.mu.Lock()
		c.streams[id] = &stream{connection: c, id: id, began: time.Now(), gone: make(chan struct{})}
		c.mu.Unlock()
	}
	return nil
}

// ------------------------------------------------------------------------------------------ from the server downward

func (c *connection) downward(from *reader) error { return pump(from, &c.client, c.give) }

// give takes one frame of the server.
func (c *connection) give(f frame, from *reader) error {
	switch f.kind {
	case frameHeaders:
		return c.giveHeaders(f, from)
	case frameData:
		if s := c.stream(f.stream); s != nil {
			s.answer(f)
		}
	case frameReset:
		if s := c.stream(f.stream); s != nil {
			s.end("failed")
		}
	case frameSettings:
		if f.isNewSettings() {
			c.giveSettings(f)
			return nil
		}
	case frameWindowUpdate:
		if f.stream == 0 && len(f.payload()) == 4 {
			widen(f, &c.server, &c.client, &c.reserved, &c.appended)
			return nil
		}
	}
	c.client.Lock()
	c.client.raw(f.raw)
	c.client.Unlock()
	return nil
}

// giveHeaders reads a block of the server's headers and writes it anew, so that a block may also be left out.
func (c *connection) giveHeaders(f frame, from *reader) error {
	id, ends := f.stream, f.endsStream()
	c.fields = c.fields[:0]
	if err := c.decode(c.answers, f, from, func(frame) {}); err != nil {
		return err
	}
	if s := c.stream(id); s != nil && !s.answerHeaders(c.fields, ends) {
		return nil
	}
	c.client.Lock()
	c.client.headers(id, c.encoder.encode(c.fields), ends)
	c.client.Unlock()
	return nil
}

// giveSettings hands the server's settings on, with windows that are smaller by what may be appended to a message.
func (c *connection) giveSettings(f frame) {
	payload := append([]byte(nil), f.payload()...)
	said := false
	eachSetting(payload, func(id uint16, value []byte) {
		switch id {
		case settingInitialWindow:
			said = true
			window := binary.BigEndian.Uint32(value)
			binary.BigEndian.PutUint32(value, window-min(window, wire.TailLength))
		case settingTableSize:
			size := binary.BigEndian.Uint32(value)
			c.mu.Lock()
			c.requests.SetAllowedMaxDynamicTableSize(size)
			c.mu.Unlock()
		}
	})
	c.client.Lock()
	defer c.client.Unlock()
	if !said && !c.settled {
		payload = binary.BigEndian.AppendUint16(payload, settingInitialWindow)
		payload = binary.BigEndian.AppendUint32(payload, defaultWindow-wire.TailLength)
	}
	c.settled = true
	c.client.head(frameSettings, 0, 0, len(payload))
	c.client.raw(payload)
}

// ------------------------------------------------------------------------------------------------------------- both

// pump handles one frame after the other, and flushes what was written for the other side when no more is there.
func pump(from *reader, to *writer, handle func(frame, *reader) error) error {
	for {
		f, err := from.next()
		if err != nil {
			return err
		}
		if err := handle(f, from); err != nil {
			return err
		}
		if from.idle() {
			to.Lock()
			err := to.flush()
			to.Unlock()
			if err != nil {
				return err
			}
		}
	}
}

// decode reads a block of headers, and shows each of its frames.
func (c *connection) decode(with *hpack.Decoder, f frame, from *reader, show func(frame)) error {
	id, length := f.stream, 0
	for {
		c.mu.Lock()
		_, err := with.Write(f.headerBlock())
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if length += len(f.raw); length > longestHeaders {
			return errors.New("headers without end")
		}
		show(f)
		if f.has(flagEndHeaders) {
			return with.Close()
		}
		if f, err = from.next(); err != nil {
			return err
		}
		if f.kind != frameContinuation || f.stream != id {
			return errors.New("a block of headers that is interrupted")
		}
	}
}

// widen hands an increment of a connection's window on, less what the other side never took; `of` guards what is owed.
func widen(f frame, of, to *writer, owed ...*uint32) {
	of.Lock()
	left := swallow(binary.BigEndian.Uint32(f.payload()), owed...)
	of.Unlock()
	if left > 0 {
		to.Lock()
		to.word(frameWindowUpdate, 0, left)
		to.Unlock()
	}
}

func (c *connection) stream(id uint32) *stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

// forget ends what is known of a stream; false: it had ended before.
func (c *connection) forget(s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[s.id] != s {
		return false
	}
	delete(c.streams, s.id)
	return true
}

// abandon ends every stream of a connection that is gone.
func (c *connection) abandon() {
	c.mu.Lock()
	left := make([]*stream, 0, len(c.streams))
	for _, s := range c.streams {
		left = append(left, s)
	}
	c.mu.Unlock()
	for _, s := range left {
		s.reset()
	}
}

// leave asks the client to go elsewhere with its next requests. It ends the connection when it has its answers.
func (c *connection) leave() {
	c.client.Lock()
	c.client.head(frameGoAway, 0, 0, 8)
	c.client.out = binary.BigEndian.AppendUint32(c.client.out, lastStream)
	c.client.out = binary.BigEndian.AppendUint32(c.client.out, noError)
	_ = c.client.flush()
	c.client.Unlock()
}

// swallow takes what is owed out of an increment of a window and returns the rest.
func swallow(increment uint32, owed ...*uint32) uint32 {
	for _, each := range owed {
		taken := min(*each, increment)
		*each -= taken
		increment -= taken
	}
	return increment
}

func eachSetting(payload []byte, do func(id uint16, value []byte)) {
	for ; len(payload) >= 6; payload = payload[6:] {
		do(binary.BigEndian.Uint16(payload), payload[2:6])
	}
}
