// Package h2 stands between a client's HTTP/2 connection and one of its own to the server, frame by frame.
//
// A gRPC library on both sides would take a request apart and put it together again, twice, with a thread to wake at each
// step; frames that are handed on as they came cost a fifth of a millisecond less. So each client's connection has one to
// the server, streams keep their numbers, requests' headers and everything that is no inference pass untouched, and so
// does flow control. Of an inference, only its last frame is held until its turn has come, and gets the version appended;
// room for it is made in the length of the message when its first frame passes (RFC 9113; gRPC over HTTP/2).
package h2

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
)

const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTableSize     = 0x1
	settingInitialWindow = 0x4

	headLength = 9
	// smallestFrame is the payload that every peer takes.
	smallestFrame = 16384
	readBuffer    = 256 << 10
	preface       = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// frame is one frame as it came; its bytes are valid until the next one is read.
type frame struct {
	kind   byte
	flags  byte
	stream uint32
	raw    []byte
}

func (f frame) payload() []byte    { return f.raw[headLength:] }
func (f frame) has(flag byte) bool { return f.flags&flag != 0 }
func (f frame) endsStream() bool {
	return (f.kind == frameData || f.kind == frameHeaders) && f.has(flagEndStream)
}
func (f frame) content() []byte     { return unpadded(f.payload(), f.has(flagPadded)) }
func (f frame) isNewSettings() bool { return f.kind == frameSettings && !f.has(flagAck) }
func (f frame) headerBlock() []byte {
	block := f.content()
	if f.kind == frameHeaders && f.has(flagPriority) {
		block = block[min(5, len(block)):]
	}
	return block
}

func unpadded(payload []byte, padded bool) []byte {
	if !padded || len(payload) == 0 {
		return payload
	}
	end := len(payload) - int(payload[0])
	return payload[1:max(1, end)]
}

// reader reads frames without copying them, unless they are larger than its buffer.
type reader struct {
	buffer *bufio.Reader
	last   int
}

func newReader(conn io.Reader) *reader { return &reader{buffer: bufio.NewReaderSize(conn, readBuffer)} }

func (r *reader) next() (frame, error) {
	if _, err := r.buffer.Discard(r.last); err != nil {
		return frame{}, err
	}
	r.last = 0
	head, err := r.buffer.Peek(headLength)
	if err != nil {
		return frame{}, err
	}
	length := headLength + int(head[0])<<16 + int(head[1])<<8 + int(head[2])
	f := frame{kind: head[3], flags: head[4], stream: binary.BigEndian.Uint32(head[5:9]) & 0x7fffffff}
	if length <= readBuffer {
		f.raw, err = r.buffer.Peek(length)
		r.last = length
		return f, err
	}
	f.raw = make([]byte, length)
	_, err = io.ReadFull(r.buffer, f.raw)
	return f, err
}

// idle tells whether the next frame has still to come: time to flush.
func (r *reader) idle() bool { return r.buffer.Buffered()-r.last < headLength }

// writer collects frames for one side. Its methods are for whoever holds its lock.
type writer struct {
	sync.Mutex
	conn net.Conn
	out  []byte
	err  error
}

func (w *writer) raw(bytes []byte) { w.out = append(w.out, bytes...) }

func (w *writer) head(kind, flags byte, stream uint32, length int) {
	w.out = append(w.out, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	w.out = binary.BigEndian.AppendUint32(w.out, stream)
}

// data adds a message, or the rest of one, in frames that every peer takes.
func (w *writer) data(stream uint32, message []byte, endsStream bool) {
	for {
		part := message[:min(len(message), smallestFrame)]
		message = message[len(part):]
		var flags byte
		if endsStream && len(message) == 0 {
			flags = flagEndStream
		}
		w.head(frameData, flags, stream, len(part))
		w.raw(part)
		if len(message) == 0 {
			return
		}
	}
}

// headers adds a block of headers.
func (w *writer) headers(stream uint32, block []byte, endsStream bool) {
	kind, flags := byte(frameHeaders), byte(0)
	if endsStream {
		flags = flagEndStream
	}
	for {
		part := block[:min(len(block), smallestFrame)]
		block = block[len(part):]
		if len(block) == 0 {
			flags |= flagEndHeaders
		}
		w.head(kind, flags, stream, len(part))
		w.raw(part)
		if len(block) == 0 {
			return
		}
		kind, flags = frameContinuation, 0
	}
}

func (w *writer) word(kind byte, stream, value uint32) {
	w.head(kind, 0, stream, 4)
	w.out = binary.BigEndian.AppendUint32(w.out, value)
}

func (w *writer) flush() error {
	if len(w.out) > 0 && w.err == nil {
		_, w.err = w.conn.Write(w.out)
	}
	if cap(w.out) > 4*readBuffer {
		w.out = nil // one large message must not keep its room for ever
	}
	w.out = w.out[:0]
	return w.err
}
