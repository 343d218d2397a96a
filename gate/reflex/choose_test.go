package reflex

import (
	"encoding/json"
	"os"
	"testing"
)

// The cases were answered by rung.core.reflex.choose; tests/unit/core holds that side against the same file.
func TestChooseIsTheCoresFunction(t *testing.T) {
	content, err := os.ReadFile("testdata/choose.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		ServiceSeconds []float64 `json:"serviceSeconds"`
		Waiting        int       `json:"waiting"`
		SlackSeconds   float64   `json:"slackSeconds"`
		Place          int       `json:"place"`
	}
	if err := json.Unmarshal(content, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) < 100 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		if place := Choose(c.ServiceSeconds, c.Waiting, c.SlackSeconds); place != c.Place {
			t.Errorf("%+v: got %d", c, place)
		}
	}
}
