package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"qingyu.ai/clients/go/gen/agent"
)

var earlyChecks = []check{
	{name: "cancel", run: cancelled, echo: true},
	{name: "deadline", run: deadline, echo: true},
}

// quietChecks wait for so long. A server that takes keepalive pings for an attack ends a connection within 50 s.
func quietChecks(quiet time.Duration) []check {
	return []check{
		{name: "idle connection", quiet: quiet, run: func(ctx context.Context, s *system) (string, error) {
			return idle(ctx, s, quiet)
		}},
		{name: "silent stream", quiet: quiet, echo: true, run: func(ctx context.Context, s *system) (string, error) {
			return silent(ctx, s, quiet)
		}},
	}
}

// cancelled leaves a stream after its first chunk, as a writer does who closes the page. Not only the stream ends: the
// call is decided, so that the model stops, and the same id finds it cancelled.
func cancelled(ctx context.Context, s *system) (string, error) {
	request := echo("字", 100_000, 50, 0)
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks, err := s.agent.ChatStream(callCtx, request)
	if err != nil {
		return "", err
	}
	if _, err := chunks.Recv(); err != nil {
		return "", err
	}
	began := time.Now()
	cancel()
	for err == nil {
		_, err = chunks.Recv()
	}
	took := time.Since(began)
	if status.Code(err) != codes.Canceled || took > prompt {
		return "", fmt.Errorf("the stream ended with %s after %s", status.Code(err), rounded(took))
	}
	began = time.Now()
	err = drain(ctx, s, request)
	decided := time.Since(began)
	if _, wrong := expect(err, codes.Canceled, "CANCELLED"); wrong != nil {
		return "", fmt.Errorf("the same id again: %w", wrong)
	}
	if err := stillWorks(ctx, s); err != nil {
		return "", err
	}
	return fmt.Sprintf("Canceled after %s; the same id finds it so after %s; the connection works",
		rounded(took), rounded(decided)), nil
}

// deadline gives a stream less time than it needs.
func deadline(ctx context.Context, s *system) (string, error) {
	const allowed = 500 * time.Millisecond
	callCtx, cancel := context.WithTimeout(ctx, allowed)
	defer cancel()
	began := time.Now()
	err := drain(callCtx, s, echo("字", 100_000, 50, 0))
	took := time.Since(began)
	inTime := took > allowed-50*time.Millisecond && took < allowed+prompt/2
	if status.Code(err) != codes.DeadlineExceeded || !inTime {
		return "", fmt.Errorf("the stream ended with %s after %s", status.Code(err), rounded(took))
	}
	if err := stillWorks(ctx, s); err != nil {
		return "", err
	}
	return fmt.Sprintf("DeadlineExceeded after %s; the connection works", rounded(took)), nil
}

// idle says nothing for a while, but for keepalive pings, and then calls on the same connection.
func idle(ctx context.Context, s *system, quiet time.Duration) (string, error) {
	if _, err := s.agent.HealthCheck(ctx, &agent.HealthRequest{}); err != nil {
		return "", err
	}
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err := s.transports.intact(); err != nil {
		return "", err
	}
	began := time.Now()
	if _, err := s.agent.HealthCheck(ctx, &agent.HealthRequest{}); err != nil {
		return "", err
	}
	took := time.Since(began)
	if err := s.transports.intact(); err != nil {
		return "", err
	}
	return fmt.Sprintf("after %s the same connection answers in %s", rounded(quiet), rounded(took)), nil
}

// silent waits on a stream for a model that thinks for a while before its first word.
func silent(ctx context.Context, s *system, quiet time.Duration) (string, error) {
	const deltas = 3
	got, err := receive(ctx, s, echo("字", deltas, 0, quiet))
	if err != nil {
		return "", err
	}
	if got.text != strings.Repeat("字", deltas) {
		return "", fmt.Errorf("the stream said %q", got.text)
	}
	if got.first < quiet {
		return "", fmt.Errorf("it was silent for %s only", rounded(got.first))
	}
	if err := s.transports.intact(); err != nil {
		return "", err
	}
	return fmt.Sprintf("whole, after %s without a chunk", rounded(got.first)), nil
}

// stillWorks calls once more and looks whether the connection is the first one.
func stillWorks(ctx context.Context, s *system) error {
	if _, err := s.agent.Chat(ctx, echo("还在吗？", 1, 0, 0)); err != nil {
		return fmt.Errorf("the next call: %w", err)
	}
	return s.transports.intact()
}

// echo is a request that tells bench.echo_worker how to answer: a text so many times, so many a second (0: as fast as it
// can), after a silence.
func echo(text string, deltas, perSecond int, silence time.Duration) *agent.ChatRequest {
	request := question(text)
	request.Context = map[string]string{
		"deltas":         strconv.Itoa(deltas),
		"per_second":     strconv.Itoa(perSecond),
		"silent_seconds": strconv.FormatFloat(silence.Seconds(), 'f', -1, 64),
	}
	return request
}

// drain takes a stream to its end.
func drain(ctx context.Context, s *system, request *agent.ChatRequest) error {
	chunks, err := s.agent.ChatStream(ctx, request)
	for err == nil {
		_, err = chunks.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
