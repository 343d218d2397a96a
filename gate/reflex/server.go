package reflex

import (
	"math"
	"sync/atomic"
)

// Server is what the tasks of one server share: its cores. Inferences and loads that are under way at the same time share
// them evenly, as a fair scheduler does it, so each takes as many times longer as there are more of them than cores.
type Server struct {
	cores   atomic.Uint64 // bits of a float64; 0: nobody said
	busy    atomic.Int64
	loading atomic.Int64
}

// SetCores says how many cores the server may use; 0: that is not known, and nothing stretches anything.
func (s *Server) SetCores(cores float64) { s.cores.Store(math.Float64bits(cores)) }

// SetLoading says how many versions are being loaded.
func (s *Server) SetLoading(loads int) { s.loading.Store(int64(loads)) }

// stretch returns how many times as long an inference takes beside what is under way. counted tells whether its task is
// under way itself: a task has one instance, which is busy or not.
func (s *Server) stretch(counted bool) float64 {
	cores := math.Float64frombits(s.cores.Load())
	if cores <= 0 {
		return 1
	}
	busy := s.busy.Load() + s.loading.Load()
	if !counted {
		busy++
	}
	return max(1, float64(busy)/cores)
}
