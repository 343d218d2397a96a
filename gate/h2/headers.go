package h2

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// headerEncoder writes headers for one client.
type headerEncoder struct {
	buffer  bytes.Buffer
	encoder *hpack.Encoder
}

func newHeaderEncoder() *headerEncoder {
	e := &headerEncoder{}
	e.encoder = hpack.NewEncoder(&e.buffer)
	return e
}

func (e *headerEncoder) limit(size uint32) { e.encoder.SetMaxDynamicTableSizeLimit(size) }

// encode returns a block; its bytes are valid until the next one.
func (e *headerEncoder) encode(fields []hpack.HeaderField) []byte {
	e.buffer.Reset()
	for _, field := range fields {
		_ = e.encoder.WriteField(field) // a buffer takes everything
	}
	return e.buffer.Bytes()
}

// answerFields are the headers of an answer that the gate gives itself.
func answerFields() []hpack.HeaderField {
	return []hpack.HeaderField{
		{Name: ":status", Value: "200"},
		{Name: "content-type", Value: "application/grpc"},
	}
}

// statusFields are its trailers; the pairs are names and values of more.
func statusFields(code uint32, message string, pairs ...string) []hpack.HeaderField {
	fields := []hpack.HeaderField{{Name: "grpc-status", Value: strconv.FormatUint(uint64(code), 10)}}
	if message != "" {
		fields = append(fields, hpack.HeaderField{Name: "grpc-message", Value: percentEncoded(message)})
	}
	for ; len(pairs) >= 2; pairs = pairs[2:] {
		fields = append(fields, hpack.HeaderField{Name: pairs[0], Value: pairs[1]})
	}
	return fields
}

// percentEncoded returns a text as grpc-message has it.
func percentEncoded(text string) string {
	var made strings.Builder
	for _, b := range []byte(text) {
		if b < ' ' || b > '~' || b == '%' {
			fmt.Fprintf(&made, "%%%02X", b)
		} else {
			made.WriteByte(b)
		}
	}
	return made.String()
}
