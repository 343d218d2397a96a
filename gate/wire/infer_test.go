package wire

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"
)

func field(number int, content string) []byte {
	return append([]byte{byte(number<<3 | 2), byte(len(content))}, content...)
}

func pieces(message []byte, size int) mem.BufferSlice {
	var found mem.BufferSlice
	for len(message) > 0 {
		n := min(size, len(message))
		found = append(found, mem.SliceBuffer(message[:n]))
		message = message[n:]
	}
	return found
}

func TestReadHeadFindsNameAndVersionHoweverTheMessageLiesInPieces(t *testing.T) {
	message := bytes.Join([][]byte{
		field(1, "digits"), field(3, "an id"), {0x20, 0x96, 0x01}, field(7, strings.Repeat("x", 100)), field(2, "12"), field(2, "34"),
	}, nil)
	for size := 1; size <= len(message); size++ {
		head, err := ReadHead(pieces(message, size))
		if err != nil || head != (Head{"digits", "34"}) {
			t.Fatalf("in pieces of %d: %+v, %v", size, head, err)
		}
	}
}

func TestWithVersionIsTheVersionThatIsRead(t *testing.T) {
	message := pieces(append(field(1, "digits"), field(2, "")...), 3)
	head, err := ReadHead(WithVersion(message, 1097100))
	if err != nil || head.Version != "1097100" {
		t.Fatalf("%+v, %v", head, err)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 3)
	f.Add(field(1, "digits"), 2)
	f.Fuzz(func(t *testing.T, message []byte, size int) {
		head, err := ReadHead(pieces(message, 1+size&0xff))
		if whole, wholeErr := ReadHead(mem.BufferSlice{mem.SliceBuffer(message)}); whole != head || (err == nil) != (wholeErr == nil) {
			t.Fatalf("%+v %v in pieces, %+v %v whole", head, err, whole, wholeErr)
		}
	})
}
