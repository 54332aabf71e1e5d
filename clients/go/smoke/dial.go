package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
)

// connectTimeout is how long a caller waits for the connection: a wrong address shows at the start, and not in the first
// call of a writer.
const connectTimeout = 10 * time.Second

// dialOptions are those of a backend in production; copy them.
func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		// Where TLS ends in front of the bridge, credentials.NewTLS stands here.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A broken connection is noticed within 13 s, also while nothing is being said. The bridge allows pings at this
		// pace; a server that does not answers them with GOAWAY too_many_pings, which cuts all streams.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                10 * time.Second,
			Timeout:             3 * time.Second,
			PermitWithoutStream: true,
		}),
	}
}

// dial connects, and waits until the connection is there.
func dial(ctx context.Context, target string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(target, append(dialOptions(), more...)...)
	if err != nil {
		return nil, fmt.Errorf("%s is no address: %w", target, err)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		state := conn.GetState()
		if state == connectivity.Ready {
			return conn, nil
		}
		// A new channel is idle until it is asked to connect.
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			conn.Close()
			return nil, fmt.Errorf("no connection to %s within %s (it is %s)", target, rounded(connectTimeout), state)
		}
	}
}

// transports watches what is under a channel. A channel that lost its connection makes another one without a word, and
// only this tells.
type transports struct {
	mu     sync.Mutex
	opened time.Time
	count  int
	lost   []time.Duration
}

// intact returns an error unless the channel still has its first connection.
func (t *transports) intact() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lost) > 0 {
		return fmt.Errorf("the connection was lost after %s", rounded(t.lost[0]))
	}
	if t.count != 1 {
		return fmt.Errorf("the channel has had %d connections", t.count)
	}
	return nil
}

// HandleConn counts.
func (t *transports) HandleConn(_ context.Context, event stats.ConnStats) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch event.(type) {
	case *stats.ConnBegin:
		t.opened = time.Now()
		t.count++
	case *stats.ConnEnd:
		t.lost = append(t.lost, time.Since(t.opened))
	}
}

// TagConn is part of stats.Handler.
func (t *transports) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// TagRPC is part of stats.Handler.
func (t *transports) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC is part of stats.Handler.
func (t *transports) HandleRPC(context.Context, stats.RPCStats) {}
