package wire

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// message returns what a client sends: name, version, id, an input of so many bytes.
func message(name, version string, input int) []byte {
	var made []byte
	made = protowire.AppendTag(made, 1, protowire.BytesType)
	made = protowire.AppendString(made, name)
	if version != "" {
		made = protowire.AppendTag(made, 2, protowire.BytesType)
		made = protowire.AppendString(made, version)
	}
	made = protowire.AppendTag(made, 9, protowire.VarintType)
	made = protowire.AppendVarint(made, 1<<40)
	made = protowire.AppendTag(made, 10, protowire.Fixed32Type)
	made = protowire.AppendFixed32(made, 7)
	made = protowire.AppendTag(made, 11, protowire.Fixed64Type)
	made = protowire.AppendFixed64(made, 7)
	made = protowire.AppendTag(made, 7, protowire.BytesType)
	return protowire.AppendBytes(made, bytes.Repeat([]byte{0x12}, input))
}

func TestNameAndVersionAreReadHoweverTheMessageIsCut(t *testing.T) {
	whole := message("digits", "3", 300)
	for cut := range len(whole) {
		var scanner Scanner
		scanner.Feed(whole[:cut])
		scanner.Feed(whole[cut:])
		if scanner.Name != "digits" || scanner.Version != "3" || scanner.Err != nil {
			t.Fatalf("cut at %d: %+v", cut, scanner)
		}
	}
	var scanner Scanner
	for place := range whole {
		scanner.Feed(whole[place : place+1])
	}
	if scanner.Name != "digits" || scanner.Version != "3" {
		t.Fatalf("byte by byte: %+v", scanner)
	}
}

func TestWhatIsNoMessageIsAnErrorAndNothingElse(t *testing.T) {
	for name, bad := range map[string][]byte{
		"a group":              {0x0b},
		"a number without end": bytes.Repeat([]byte{0xff}, 11),
		"a name without end":   binary.AppendUvarint([]byte{0x0a}, 1<<40),
	} {
		var scanner Scanner
		scanner.Feed(bad)
		scanner.Feed([]byte(strings.Repeat("x", 100)))
		if scanner.Err == nil {
			t.Errorf("%s: %+v", name, scanner)
		}
	}
}

func TestATailGivesAMessageItsVersionOrChangesNothing(t *testing.T) {
	for version, want := range map[int64]string{1: "1", 1_098_820: "1098820", 1<<63 - 1: "9223372036854775807", 0: ""} {
		tail := Tail(version)
		var scanner Scanner
		scanner.Feed(append(message("digits", "", 40), tail[:]...))
		if scanner.Err != nil || scanner.Name != "digits" || strings.TrimLeft(scanner.Version, "0") != want {
			t.Errorf("%d: %+v", version, scanner)
		}
		if field, kind, n := protowire.ConsumeField(tail[:]); n != TailLength || kind != protowire.BytesType {
			t.Errorf("%d: field %d of kind %d takes %d bytes", version, field, kind, n)
		}
	}
}
