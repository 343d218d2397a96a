package wire

import (
	"fmt"

	"google.golang.org/grpc/mem"
)

// Message is one message of any kind, as its bytes.
type Message struct {
	Data mem.BufferSlice
}

// Codec hands messages through as they are.
type Codec struct{}

// Name is what the content type says; servers take it for protobuf, which it is.
func (Codec) Name() string { return "proto" }

// Marshal gives the bytes away: gRPC frees them once they are sent.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(*Message)
	if !ok {
		return nil, fmt.Errorf("can't send a %T", v)
	}
	return message.Data, nil
}

// Unmarshal keeps the bytes, which gRPC would free.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(*Message)
	if !ok {
		return fmt.Errorf("can't receive a %T", v)
	}
	data.Ref()
	message.Data = data
	return nil
}
