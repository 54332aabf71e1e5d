package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"qingyu.ai/clients/go/gen/agent"
)

// agentTools are offered to the agent.
var agentTools = []string{counter, "character_names"}

var agentChecks = []check{
	{name: "ExecuteAgent", run: agentAnswers},
	{name: "ExecuteAgentStream", run: agentStreams},
	{name: "ExecuteAgentStream again", run: agentStreamsAgain},
	{name: "an outline in JSON", run: agentOutlines},
}

// agentAnswers has an agent write, and takes all that it did as a whole.
func agentAnswers(ctx context.Context, s *system) (string, error) {
	request := writing()
	var trailer metadata.MD
	answer, err := s.agent.ExecuteAgent(ctx, request, grpc.Trailer(&trailer))
	if err != nil {
		return "", err
	}
	stats, status := answer.GetStats(), answer.GetResponseStatus()
	switch {
	case answer.GetStatus() != "completed" || status == nil || status.GetCode() != 0:
		return "", fmt.Errorf("it ended %q: %v", answer.GetStatus(), status)
	case strings.TrimSpace(answer.GetOutput()) == "":
		return "", errors.New("the output is empty")
	case stats.GetTokensUsed() <= 0 || stats.GetDurationMs() <= 0:
		return "", fmt.Errorf("the stats are %v", stats)
	case int(stats.GetToolCallsCount()) != len(answer.GetToolCalls()) || len(answer.GetToolCalls()) == 0:
		return "", fmt.Errorf("the stats are %v with %d tool calls", stats, len(answer.GetToolCalls()))
	case answer.GetMetadata().GetRequestId() != request.GetMetadata().GetRequestId():
		return "", fmt.Errorf("the answer belongs to %v", answer.GetMetadata())
	}
	for _, call := range answer.GetToolCalls() {
		whole := slices.Contains(agentTools, call.GetToolName()) && call.GetStatus().GetCode() == 0
		if !whole || !isObject(call.GetParameters()) || !isObject(call.GetResult()) {
			return "", fmt.Errorf("a tool call is %v", call)
		}
	}
	used, err := usageOf(trailer, request.GetMetadata().GetRequestId())
	if err != nil {
		return "", err
	}
	if got := int(stats.GetTokensUsed()); got != used.prompt+used.completion {
		return "", fmt.Errorf("tokens_used is %d, the trailing metadata has %d + %d", got, used.prompt, used.completion)
	}
	return fmt.Sprintf("%d tool calls, %d characters; %s",
		len(answer.GetToolCalls()), utf8.RuneCountInString(answer.GetOutput()), used), nil
}

// agentStreams has an agent write, and follows what it does.
func agentStreams(ctx context.Context, s *system) (string, error) {
	got, err := follow(ctx, s, writing())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d chunks: %s; %d characters; %s, %s tokens, %s ms", got.chunks,
		strings.Join(got.kinds, " "), utf8.RuneCountInString(got.text), got.end["status"], got.end["tokens_used"], got.end["duration_ms"]), nil
}

// agentStreamsAgain asks with the same id for a stream that has ended: the same text, and no second bill.
func agentStreamsAgain(ctx context.Context, s *system) (string, error) {
	request := writing()
	first, err := follow(ctx, s, request)
	if err != nil {
		return "", err
	}
	second, err := follow(ctx, s, request)
	if err != nil {
		return "", err
	}
	if first.text != second.text || first.end["seq"] != second.end["seq"] || first.end["duration_ms"] != second.end["duration_ms"] {
		return "", fmt.Errorf("first %q (%v), then %q (%v)", first.text, first.end, second.text, second.end)
	}
	return "the same text and stats", nil
}

// agentOutlines asks for an answer in JSON.
func agentOutlines(ctx context.Context, s *system) (string, error) {
	request := task()
	request.Context["format"] = "json"
	request.Options.TimeoutSeconds = 25
	answer, err := s.agent.ExecuteAgent(ctx, request)
	if err != nil {
		return "", err
	}
	if answer.GetStatus() != "completed" {
		return "", fmt.Errorf("it ended %q: %v", answer.GetStatus(), answer.GetResponseStatus())
	}
	var outline struct {
		Title    string
		Chapters []struct {
			Number  int
			Summary string
		}
	}
	if err := json.Unmarshal([]byte(answer.GetOutput()), &outline); err != nil {
		return "", fmt.Errorf("the output is no JSON: %w", err)
	}
	if outline.Title == "" || len(outline.Chapters) == 0 || outline.Chapters[0].Number < 1 || outline.Chapters[0].Summary == "" {
		return "", fmt.Errorf("the outline is %+v", outline)
	}
	return fmt.Sprintf("%q in %d chapters", outline.Title, len(outline.Chapters)), nil
}

// followed is what was seen of an agent's stream.
type followed struct {
	text   string
	chunks int
	kinds  []string          // neighbours of one type once
	end    map[string]string // the last chunk's metadata
	read   int               // the number to resume from (x-resume-from), should the connection be lost
	open   map[string]string // tools that run, by the id of their call
	ended  int
}

// follow takes an agent's stream to its end, and accepts nothing but a whole one of an agent that called tools.
func follow(ctx context.Context, s *system, request *agent.AgentRequest) (followed, error) {
	got := followed{open: map[string]string{}}
	// A stream that is left before its end leaks, unless its context is cancelled.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks, err := s.agent.ExecuteAgentStream(ctx, request)
	if err != nil {
		return got, err
	}
	for {
		chunk, err := chunks.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return got, fmt.Errorf("after %d chunks: %w", got.chunks, err)
		}
		if err := got.add(chunk); err != nil {
			return got, fmt.Errorf("chunk %d: %w: %v", got.chunks, err, chunk)
		}
	}
	return got, got.whole()
}

// add takes one chunk.
func (f *followed) add(chunk *agent.AgentStreamChunk) error {
	facts, kind := chunk.GetMetadata(), chunk.GetChunkType()
	f.chunks++
	if f.end != nil {
		return errors.New("it came after the final one")
	}
	// A chunk that was merged out of several carries the number of the last one.
	seq, err := strconv.Atoi(facts["seq"])
	if err != nil || seq < f.read {
		return fmt.Errorf("its seq is %q after %d", facts["seq"], f.read-1)
	}
	f.read = seq + 1
	if len(f.kinds) == 0 || f.kinds[len(f.kinds)-1] != kind {
		f.kinds = append(f.kinds, kind)
	}
	if chunk.GetIsFinal() {
		f.end = facts
		return nil
	}
	switch kind {
	case "text":
		f.text += chunk.GetDelta()
	case "reasoning":
	case "tool_start":
		if !slices.Contains(agentTools, facts["tool_name"]) || !isObject(facts["parameters"]) || facts["call_id"] == "" {
			return errors.New("it does not say what is called")
		}
		f.open[facts["call_id"]] = facts["tool_name"]
	case "tool_end":
		if f.open[facts["call_id"]] != facts["tool_name"] {
			return errors.New("the tool ends and was not started")
		}
		if _, err := strconv.Atoi(facts["duration_ms"]); err != nil || facts["success"] != "true" || !isObject(facts["result"]) {
			return errors.New("it does not say what came of the tool")
		}
		delete(f.open, facts["call_id"])
		f.ended++
	default:
		return errors.New("its type is none of the contract's")
	}
	return nil
}

// whole says what is missing at the end.
func (f *followed) whole() error {
	switch {
	case f.end == nil:
		return errors.New("the stream ended without a final chunk")
	case len(f.open) > 0:
		return fmt.Errorf("tools that never ended: %v", f.open)
	case f.end["status"] != "completed" || f.end["code"] != "0":
		return fmt.Errorf("the agent ended %q: %v", f.end["status"], f.end)
	case strings.TrimSpace(f.text) == "":
		return errors.New("the text is empty")
	case f.end["tool_calls_count"] != strconv.Itoa(f.ended) || f.ended == 0:
		return fmt.Errorf("%d tools ended, the final chunk says %q", f.ended, f.end["tool_calls_count"])
	}
	for _, key := range []string{"tokens_used", "duration_ms"} {
		if n, err := strconv.Atoi(f.end[key]); err != nil || n <= 0 {
			return fmt.Errorf("the final chunk says %s %q", key, f.end[key])
		}
	}
	if n, err := strconv.Atoi(f.end["retry_count"]); err != nil || n < 0 {
		return fmt.Errorf("the final chunk says retry_count %q", f.end["retry_count"])
	}
	return nil
}

// isObject tells whether a text is a JSON object.
func isObject(text string) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal([]byte(text), &object) == nil && object != nil
}

// writing is a task for an agent that may call tools.
func writing() *agent.AgentRequest {
	return &agent.AgentRequest{
		AgentType: "creative",
		Task:      "先用工具数出前文的字数、认出其中的人物，再接着往下写两三句，保持语气。",
		Context:   map[string]string{"前文": passage},
		Tools:     agentTools,
		UserId:    reader,
		ProjectId: project,
		Metadata:  asking(),
		Options:   &agent.AgentOptions{TimeoutSeconds: 25, EnableReasoning: true},
	}
}
