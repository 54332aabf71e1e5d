package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"qingyu.ai/clients/go/gen/common"
	"qingyu.ai/clients/go/gen/control"
)

var controlChecks = []check{
	{name: "Describe of a call that lingers", run: describesLingering, echo: true},
	{name: "Cancel in words", run: cancelsInWords, echo: true},
}

// lingers begins a stream that goes on without its caller, and leaves it.
func lingers(ctx context.Context, s *system) (*control.DescribeRequest, error) {
	request := echo("字", 100_000, 50, 0)
	callCtx, leave := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "x-linger-ms", "20000"))
	defer leave()
	chunks, err := s.agent.ChatStream(callCtx, request)
	if err != nil {
		return nil, err
	}
	if _, err := chunks.Recv(); err != nil {
		return nil, err
	}
	return &control.DescribeRequest{
		Method:    "ChatStream",
		RequestId: request.Metadata.RequestId,
		Metadata:  &common.Metadata{UserId: request.Metadata.UserId},
	}, nil
}

// cancelled ends a call by its name.
func (s *system) cancelled(ctx context.Context, named *control.DescribeRequest) (*control.Call, error) {
	answer, err := s.control.Cancel(ctx, &control.CancelRequest{
		Method: named.Method, RequestId: named.RequestId, Metadata: named.Metadata,
	})
	return answer.GetCall(), err
}

// describesLingering asks where a call stands whose caller has left; nobody else may.
func describesLingering(ctx context.Context, s *system) (string, error) {
	named, err := lingers(ctx, s)
	if err != nil {
		return "", err
	}
	answer, err := s.control.Describe(ctx, named)
	if err != nil {
		return "", err
	}
	if state := answer.GetCall().GetState(); state != control.CallState_CALL_STATE_RUNNING {
		return "", fmt.Errorf("it is %s", state)
	}
	another := &control.DescribeRequest{
		Method: named.Method, RequestId: named.RequestId, Metadata: &common.Metadata{UserId: "somebody else"},
	}
	_, err = s.control.Describe(ctx, another)
	if _, wrong := expect(err, codes.NotFound, "NOT_FOUND"); wrong != nil {
		return "", fmt.Errorf("for another user: %w", wrong)
	}
	if _, err := s.cancelled(ctx, named); err != nil {
		return "", err
	}
	return "runs after its caller has left; another user does not find it", nil
}

// cancelsInWords ends a call from another connection than its own.
func cancelsInWords(ctx context.Context, s *system) (string, error) {
	named, err := lingers(ctx, s)
	if err != nil {
		return "", err
	}
	call, err := s.cancelled(ctx, named)
	if err != nil {
		return "", err
	}
	if call.GetState() != control.CallState_CALL_STATE_ENDED || codes.Code(call.GetStatus().GetCode()) != codes.Canceled {
		return "", fmt.Errorf("it is %s with %s", call.GetState(), codes.Code(call.GetStatus().GetCode()))
	}
	return "ended with Canceled", nil
}
