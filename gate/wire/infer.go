// Package wire reads and changes a ModelInferRequest of the KServe v2 protocol without decoding it.
package wire

import (
	"errors"
	"strconv"

	"google.golang.org/grpc/mem"
)

// The fields of ModelInferRequest that are read (grpc_predict_v2.proto).
const (
	nameField    = 1
	versionField = 2
)

var errMalformed = errors.New("the request is no ModelInferRequest")

// Head is what a request says of the model it asks.
type Head struct {
	Name    string
	Version string
}

// ReadHead returns the model's name and version. Everything else is skipped, however large.
func ReadHead(message mem.BufferSlice) (Head, error) {
	var head Head
	at := cursor{buffers: message}
	for !at.end() {
		tag, err := at.varint()
		if err != nil {
			return head, err
		}
		switch tag & 7 {
		case 0:
			_, err = at.varint()
		case 1:
			err = at.skip(8)
		case 5:
			err = at.skip(4)
		case 2:
			var length uint64
			if length, err = at.varint(); err != nil {
				break
			}
			switch tag >> 3 {
			case nameField:
				head.Name, err = at.text(length)
			case versionField:
				head.Version, err = at.text(length)
			default:
				err = at.skip(length)
			}
		default:
			err = errMalformed
		}
		if err != nil {
			return head, err
		}
	}
	return head, nil
}

// WithVersion returns the message with a version. Of a field that occurs twice, protobuf takes the last.
func WithVersion(message mem.BufferSlice, version int64) mem.BufferSlice {
	digits := strconv.FormatInt(version, 10)
	field := append([]byte{versionField<<3 | 2, byte(len(digits))}, digits...)
	return append(message, mem.SliceBuffer(field))
}

// cursor walks over a message that lies in pieces.
type cursor struct {
	buffers mem.BufferSlice
	piece   int
	offset  int
}

func (c *cursor) end() bool {
	for c.piece < len(c.buffers) && c.offset >= c.buffers[c.piece].Len() {
		c.piece, c.offset = c.piece+1, 0
	}
	return c.piece >= len(c.buffers)
}

func (c *cursor) varint() (uint64, error) {
	var value uint64
	for shift := 0; shift < 64; shift += 7 {
		if c.end() {
			return 0, errMalformed
		}
		b := c.buffers[c.piece].ReadOnlyData()[c.offset]
		c.offset++
		value |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return value, nil
		}
	}
	return 0, errMalformed
}

func (c *cursor) skip(length uint64) error {
	for length > 0 {
		if c.end() {
			return errMalformed
		}
		step := min(length, uint64(c.buffers[c.piece].Len()-c.offset))
		c.offset += int(step)
		length -= step
	}
	return nil
}

// longestText is more than any name of a model that Triton takes.
const longestText = 4096

func (c *cursor) text(length uint64) (string, error) {
	if length > longestText {
		return "", errMalformed
	}
	text := make([]byte, 0, length)
	for uint64(len(text)) < length {
		if c.end() {
			return "", errMalformed
		}
		rest := c.buffers[c.piece].ReadOnlyData()[c.offset:]
		step := min(length-uint64(len(text)), uint64(len(rest)))
		text = append(text, rest[:step]...)
		c.offset += int(step)
	}
	return string(text), nil
}
