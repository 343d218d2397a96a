package h2

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"rung.dev/gate/fleet"
)

// Proxy hands every call on to the server. Unary inferences of a task wait for their turn and get a version.
type Proxy struct {
	// Server is where Triton's gRPC port is.
	Server string
	// Again is a connection to it for what has to be asked a second time.
	Again grpc.ClientConnInterface
	Tasks *fleet.Tasks

	mu          sync.Mutex
	connections map[*connection]struct{}
	waiting     sync.WaitGroup
}

// Serve serves whoever connects, until the listener is closed.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			slog.Warn("a client was not let in", "error", err)
			time.Sleep(10 * time.Millisecond) // out of files, most likely
			continue
		}
		c := newConnection(p, client)
		p.add(c)
		go func() {
			defer p.remove(c)
			if err := c.run(ctx); err != nil {
				slog.Debug("a connection ended", "client", client.RemoteAddr(), "error", err)
			}
		}()
	}
}

// Shut asks every client to go elsewhere and returns when all have their answers, or the context ends.
func (p *Proxy) Shut(ctx context.Context) {
	p.mu.Lock()
	left := make([]*connection, 0, len(p.connections))
	for c := range p.connections {
		left = append(left, c)
	}
	p.mu.Unlock()
	for _, c := range left {
		c.leave()
	}
	done := make(chan struct{})
	go func() {
		p.waiting.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		for _, c := range left {
			c.client.conn.Close()
		}
	}
}

func (p *Proxy) add(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.connections == nil {
		p.connections = map[*connection]struct{}{}
	}
	p.connections[c] = struct{}{}
	p.waiting.Add(1)
}

func (p *Proxy) remove(c *connection) {
	c.client.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.connections, c)
	p.waiting.Done()
}
