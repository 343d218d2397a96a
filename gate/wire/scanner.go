// Package wire reads and changes messages of the KServe v2 protocol without decoding them.
package wire

import "errors"

// ErrMalformed is what a message is that no protobuf encoder writes.
var ErrMalformed = errors.New("the message is no protobuf")

// The fields that are read of a ModelInferRequest and of a ModelInferResponse (grpc_predict_v2.proto).
const (
	nameField    = 1
	versionField = 2
	// longestText is more than any name of a model that Triton takes.
	longestText = 4096
)

// Scanner reads the model's name and version from a message that comes in pieces. Everything else is skipped, however
// large it is. The zero Scanner is at the beginning of a message.
type Scanner struct {
	Name    string
	Version string
	Err     error

	state  byte
	field  uint64
	number uint64 // the varint so far
	shift  uint
	left   uint64 // bytes of the field that are still to come
	text   []byte
}

const (
	atTag byte = iota
	atValue
	atLength
	atBytes
	atText
)

// Feed reads the next piece.
func (s *Scanner) Feed(piece []byte) {
	for len(piece) > 0 && s.Err == nil {
		switch s.state {
		case atBytes, atText:
			step := min(s.left, uint64(len(piece)))
			if s.state == atText {
				s.text = append(s.text, piece[:step]...)
			}
			piece, s.left = piece[step:], s.left-step
			if s.left == 0 {
				s.end()
			}
		default:
			b := piece[0]
			piece = piece[1:]
			if s.shift > 63 {
				s.Err = ErrMalformed
				return
			}
			s.number |= uint64(b&0x7f) << s.shift
			s.shift += 7
			if b < 0x80 {
				s.varint()
			}
		}
	}
}

// varint takes a number that is complete.
func (s *Scanner) varint() {
	number := s.number
	s.number, s.shift = 0, 0
	switch s.state {
	case atValue:
		s.state = atTag
	case atLength:
		s.left, s.state = number, atBytes
		if s.field == nameField || s.field == versionField {
			if number > longestText {
				s.Err = ErrMalformed
				return
			}
			s.state, s.text = atText, s.text[:0]
		}
		if s.left == 0 {
			s.end()
		}
	default:
		s.field = number >> 3
		switch number & 7 {
		case 0:
			s.state = atValue
		case 1:
			s.state, s.left = atBytes, 8
		case 2:
			s.state = atLength
		case 5:
			s.state, s.left = atBytes, 4
		default:
			s.Err = ErrMalformed
		}
	}
}

// end takes a field that is complete.
func (s *Scanner) end() {
	if s.state == atText {
		if s.field == nameField {
			s.Name = string(s.text)
		} else {
			s.Version = string(s.text)
		}
	}
	s.state = atTag
}

// TailLength is by how much Tail makes a message longer, whatever it holds.
const TailLength = 21

// Tail returns what to append to a request so that this version answers it: of a field that occurs twice, protobuf takes
// the last. 0 says nothing: it is a field that nobody knows, of the same length.
func Tail(version int64) [TailLength]byte {
	var tail [TailLength]byte
	if version <= 0 {
		// Field 2047, bytes: a tag of two bytes, a length, and as many zeros.
		tail[0], tail[1], tail[2] = 0xfa, 0x7f, TailLength-3
		return tail
	}
	tail[0], tail[1] = versionField<<3|2, TailLength-2
	for place := TailLength - 1; place >= 2; place-- {
		tail[place] = byte('0' + version%10)
		version /= 10
	}
	return tail
}
