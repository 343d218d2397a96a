package wire

import "fmt"

// Codec hands messages through as their bytes.
type Codec struct{}

// Name is what the content type says; servers take it for protobuf, which it is.
func (Codec) Name() string { return "proto" }

// Marshal returns the bytes.
func (Codec) Marshal(v any) ([]byte, error) {
	message, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("can't send a %T", v)
	}
	return message, nil
}

// Unmarshal keeps the bytes.
func (Codec) Unmarshal(data []byte, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("can't receive a %T", v)
	}
	*message = append([]byte{}, data...)
	return nil
}
