// Package reflex decides which loaded version answers one request, when its turn comes.
//
// A policy decides once a second, a burst is faster. So each task has one queue here, in front of the server: a request
// leaves it when the server has nearly nothing left to do for the task, and only then its version is chosen. It is the
// allocated version if everything that waits can still be in time behind it, else a loaded one below. It never goes
// above the allocation: the CPU stays what the policy planned.
package reflex

// Choose returns the place on the ladder that answers a request: the same function as rung.core.reflex.choose, held
// against it by shared cases (testdata/choose.json).
//
// serviceSeconds holds, by place, what one inference takes on the server as busy as it is, cheapest first; the last
// place is the allocated version. waiting counts the other requests that have to be answered within slackSeconds, which
// is what is left until this one is late. Returns -1 where nothing is loaded.
func Choose(serviceSeconds []float64, waiting int, slackSeconds float64) int {
	for place := len(serviceSeconds) - 1; place > 0; place-- {
		if float64(waiting+1)*serviceSeconds[place] <= slackSeconds {
			return place
		}
	}
	return min(0, len(serviceSeconds)-1)
}
