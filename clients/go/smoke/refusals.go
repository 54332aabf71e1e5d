package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"qingyu.ai/clients/go/gen/agent"
	"qingyu.ai/clients/go/gen/rag"
	"qingyu.ai/clients/go/gen/tool"
)

// prompt is how soon a caller must hear that nobody will answer.
const prompt = time.Second

var invalidChecks = []check{
	{name: "unknown role", run: invalid(unknownRole, "messages[0].role")},
	{name: "session without a user", run: invalid(sessionWithoutUser, "user_id")},
	{name: "two users", run: invalid(twoUsers, "metadata.user_id")},
	{name: "two request ids", run: invalid(twoRequestIDs, "metadata.request_id")},
	{name: "unknown agent type", run: invalid(unknownAgentType, "agent_type")},
	{name: "unknown type, in a stream", run: invalid(unknownAgentTypeInStream, "agent_type")},
	{name: "JSON from a writer of prose", run: invalid(proseAsJSON, "context['format']")},
	{name: "several fields, in a stream", run: invalid(emptyTask, "task", "user_id")},
}

// The echo target has a chat worker, and no other.
var workerlessChecks = []check{
	{name: "ExecuteAgent", run: workerless("agent", executeAgent), echo: true},
	{name: "ExecuteAgentStream", run: workerless("agent", executeAgentStream), echo: true},
	{name: "Search", run: workerless("rag", search), echo: true},
	{name: "IndexDocument", run: workerless("rag", indexDocument), echo: true},
	{name: "DeleteDocument", run: workerless("rag", deleteDocument), echo: true},
	{name: "BatchIndex", run: workerless("rag", batchIndex), echo: true},
	{name: "CallTool", run: workerless("tool", callTool), echo: true},
	{name: "ListTools", run: workerless("tool", listTools), echo: true},
	{name: "GetToolInfo", run: workerless("tool", getToolInfo), echo: true},
}

// asked is one RPC.
type asked func(ctx context.Context, s *system) error

// invalid expects INVALID_ARGUMENT that names the fields, so that a form can show the error at the right place.
func invalid(ask asked, fields ...string) func(context.Context, *system) (string, error) {
	return func(ctx context.Context, s *system) (string, error) {
		err := ask(ctx, s)
		said, wrong := expect(err, codes.InvalidArgument, "INVALID_REQUEST")
		if wrong != nil {
			return "", wrong
		}
		named := explain(err).fields
		for _, field := range fields {
			if !slices.Contains(named, field) {
				return "", fmt.Errorf("%s names %v and not %s", said, named, field)
			}
		}
		return fmt.Sprintf("%s: %s", said, strings.Join(named, ", ")), nil
	}
}

// workerless expects UNAVAILABLE at once, with a time after which a retry makes sense, while no worker of a kind runs.
func workerless(kind string, ask asked) func(context.Context, *system) (string, error) {
	return func(ctx context.Context, s *system) (string, error) {
		there, err := runs(ctx, s, kind)
		if err != nil {
			return "", err
		}
		if there {
			return "", fmt.Errorf("%w: a worker of kind %s runs", errSkipped, kind)
		}
		began := time.Now()
		err = ask(ctx, s)
		took := time.Since(began)
		said, wrong := expect(err, codes.Unavailable, "NO_WORKER")
		if wrong != nil {
			return "", wrong
		}
		if took > prompt {
			return "", fmt.Errorf("%s came only after %s", said, rounded(took))
		}
		retry := explain(err).retryAfter
		if retry <= 0 {
			return "", fmt.Errorf("%s without RetryInfo", said)
		}
		return fmt.Sprintf("%s after %s, retry in %s", said, rounded(took), rounded(retry)), nil
	}
}

// Requests that do not hold, each for another reason.

func unknownRole(ctx context.Context, s *system) error {
	request := question("你好。")
	request.Messages[0].Role = "narrator"
	_, err := s.agent.Chat(ctx, request)
	return err
}

func sessionWithoutUser(ctx context.Context, s *system) error {
	request := question("你好。")
	request.SessionId = "smoke"
	request.Metadata.UserId = ""
	_, err := s.agent.Chat(ctx, request)
	return err
}

func twoUsers(ctx context.Context, s *system) error {
	_, err := s.rag.Search(ctx, &rag.SearchRequest{Query: "青铜小灯", UserId: other, Metadata: asking()})
	return err
}

func twoRequestIDs(ctx context.Context, s *system) error {
	_, err := s.agent.Chat(metadata.AppendToOutgoingContext(ctx, requestIDKey, "another"), question("你好。"))
	return err
}

func unknownAgentType(ctx context.Context, s *system) error {
	request := task()
	request.AgentType = "poet"
	_, err := s.agent.ExecuteAgent(ctx, request)
	return err
}

func unknownAgentTypeInStream(ctx context.Context, s *system) error {
	request := task()
	request.AgentType = "poet"
	return streamAgent(ctx, s, request)
}

func proseAsJSON(ctx context.Context, s *system) error {
	request := task()
	request.AgentType = "creative"
	request.Context = map[string]string{"format": "json"}
	return streamAgent(ctx, s, request)
}

func emptyTask(ctx context.Context, s *system) error {
	request := task()
	request.Task, request.UserId, request.Metadata = "", "", nil
	return streamAgent(ctx, s, request)
}

// Requests that hold, one for each RPC that is not a chat.

func executeAgent(ctx context.Context, s *system) error {
	_, err := s.agent.ExecuteAgent(ctx, task())
	return err
}

func executeAgentStream(ctx context.Context, s *system) error {
	return streamAgent(ctx, s, task())
}

func search(ctx context.Context, s *system) error {
	_, err := s.rag.Search(ctx, &rag.SearchRequest{Query: "青铜小灯", UserId: reader, TopK: 3, Metadata: asking()})
	return err
}

func indexDocument(ctx context.Context, s *system) error {
	_, err := s.rag.IndexDocument(ctx, document())
	return err
}

func deleteDocument(ctx context.Context, s *system) error {
	_, err := s.rag.DeleteDocument(ctx, &rag.DeleteRequest{DocumentId: document().GetDocumentId(), UserId: reader})
	return err
}

// batchIndex sends documents. Send returns io.EOF when the call has ended early; why, only CloseAndRecv tells.
func batchIndex(ctx context.Context, s *system) error {
	batch, err := s.rag.BatchIndex(ctx)
	if err != nil {
		return err
	}
	for range 2 {
		if err := batch.Send(document()); err != nil {
			break
		}
	}
	_, err = batch.CloseAndRecv()
	return err
}

func callTool(ctx context.Context, s *system) error {
	_, err := s.tool.CallTool(ctx, counting(passage))
	return err
}

func listTools(ctx context.Context, s *system) error {
	_, err := s.tool.ListTools(ctx, &tool.ListToolsRequest{})
	return err
}

func getToolInfo(ctx context.Context, s *system) error {
	_, err := s.tool.GetToolInfo(ctx, &tool.GetToolInfoRequest{ToolName: counter})
	return err
}

// streamAgent takes the stream of an agent to its end.
func streamAgent(ctx context.Context, s *system, request *agent.AgentRequest) error {
	chunks, err := s.agent.ExecuteAgentStream(ctx, request)
	for err == nil {
		_, err = chunks.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func task() *agent.AgentRequest {
	return &agent.AgentRequest{
		AgentType: "outline",
		Task:      "为下一章列三条提纲。",
		Context:   map[string]string{"上一章": passage},
		UserId:    reader,
		ProjectId: project,
		Metadata:  asking(),
		Options:   &agent.AgentOptions{TimeoutSeconds: 60},
	}
}

func document() *rag.IndexRequest {
	return &rag.IndexRequest{
		DocumentId:  "smoke-chapter-1",
		Content:     passage,
		ContentType: "chapter",
		UserId:      reader,
		ProjectId:   project,
	}
}
