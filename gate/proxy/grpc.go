// Package proxy stands between clients and one Triton: gRPC and HTTP, both of the KServe v2 protocol.
package proxy

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"rung.dev/gate/fleet"
	"rung.dev/gate/wire"
)

const inferMethod = "/inference.GRPCInferenceService/ModelInfer"

// pushback is gRPC's standard way to say when to ask again (gRFC A6), milliseconds.
const pushback = "grpc-retry-pushback-ms"

// GRPC hands every call on to the server. Unary inferences of a task wait for their turn and get a version.
type GRPC struct {
	Server grpc.ClientConnInterface
	Tasks  *fleet.Tasks
}

// Handle is the handler of every method (grpc.UnknownServiceHandler).
func (g GRPC) Handle(_ any, stream grpc.ServerStream) error {
	method, known := grpc.MethodFromServerStream(stream)
	if !known {
		return status.Error(codes.Internal, "a call without a method")
	}
	ctx := stream.Context()
	if sent, has := metadata.FromIncomingContext(ctx); has {
		ctx = metadata.NewOutgoingContext(ctx, sent)
	}
	if method != inferMethod {
		return g.pass(ctx, method, stream)
	}
	var request wire.Message
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	return g.infer(ctx, stream, request)
}

func (g GRPC) infer(ctx context.Context, stream grpc.ServerStream, request wire.Message) error {
	began := time.Now()
	head, err := wire.ReadHead(request.Data)
	if err != nil {
		request.Data.Free()
		return status.Error(codes.InvalidArgument, err.Error())
	}
	task := g.Tasks.Get(head.Name)
	if task == nil || head.Version != "" {
		return g.call(ctx, stream, request)
	}
	task.Arrived()
	if g.Tasks.Refuses(task) {
		request.Data.Free()
		task.Refused()
		wait := task.SLO()
		stream.SetTrailer(metadata.Pairs(pushback, strconv.FormatInt(wait.Milliseconds(), 10)))
		return status.Errorf(codes.ResourceExhausted, "%s is best effort, and there is no room for it now: ask again in %v", head.Name, wait)
	}
	ticket, err := task.Enter(ctx, began)
	if err != nil {
		request.Data.Free()
		task.Ended(began, "cancelled", 0)
		return status.FromContextError(err).Err()
	}
	version := ticket.Version()
	// The bytes are kept for a second try: a version may be unloaded between the choice and its arrival.
	request.Data.Ref()
	kept := request.Data
	if version != 0 {
		request.Data = wire.WithVersion(request.Data, version)
	}
	err = g.call(ctx, stream, request)
	if version != 0 && isGone(err) {
		g.Tasks.Look()
		err = g.call(ctx, stream, wire.Message{Data: kept})
	} else {
		kept.Free()
	}
	task.Leave(ticket, time.Now(), err == nil)
	task.Ended(began, outcome(err), version)
	return err
}

// call asks the server once, and sends its answer to the client.
func (g GRPC) call(ctx context.Context, stream grpc.ServerStream, request wire.Message) error {
	var answer wire.Message
	var header, trailer metadata.MD
	err := g.Server.Invoke(ctx, inferMethod, &request, &answer, grpc.Header(&header), grpc.Trailer(&trailer))
	stream.SetTrailer(trailer)
	if err != nil {
		return err
	}
	if err := stream.SetHeader(header); err != nil {
		return err
	}
	return stream.SendMsg(&answer)
}

// isGone tells whether the server did not have the version any more.
func isGone(err error) bool {
	code := status.Code(err)
	return code == codes.NotFound || code == codes.Unavailable
}

func outcome(err error) string {
	if err == nil {
		return "answered"
	}
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded:
		return "cancelled"
	default:
		return "failed"
	}
}

// pass hands a call of any kind on, both ways, message by message.
func (g GRPC) pass(ctx context.Context, method string, stream grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	both := &grpc.StreamDesc{StreamName: method, ServerStreams: true, ClientStreams: true}
	server, err := g.Server.NewStream(ctx, both, method)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- forward(stream, server) }()
	err = backward(server, stream)
	stream.SetTrailer(server.Trailer())
	cancel()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// forward copies what the client sends, until it has sent all.
func forward(client grpc.ServerStream, server grpc.ClientStream) error {
	for {
		var message wire.Message
		if err := client.RecvMsg(&message); err != nil {
			if errors.Is(err, io.EOF) {
				return server.CloseSend()
			}
			return err
		}
		if err := server.SendMsg(&message); err != nil {
			return err
		}
	}
}

// backward copies what the server answers; io.EOF at the end.
func backward(server grpc.ClientStream, client grpc.ServerStream) error {
	for first := true; ; first = false {
		var message wire.Message
		err := server.RecvMsg(&message)
		if first {
			if header, headerErr := server.Header(); headerErr == nil {
				if err := client.SetHeader(header); err != nil {
					return err
				}
			}
		}
		if err != nil {
			return err
		}
		if err := client.SendMsg(&message); err != nil {
			return err
		}
	}
}
