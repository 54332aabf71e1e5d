package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"qingyu.ai/clients/go/gen/agent"
	"qingyu.ai/clients/go/gen/common"
)

const (
	reader  = "smoke-reader"
	other   = "smoke-other-reader"
	project = "smoke-novel"

	// requestIDKey names the call, in the metadata of both directions.
	requestIDKey = "x-request-id"
)

const passage = "雨是后半夜停的。沈砚推开渡口的木门，河面上浮着一层薄雾。老艄公蹲在船头补网，头也不抬：" +
	"“你师父临走前交代过，灯灭之前，不许过河。”沈砚摸了摸怀里那盏青铜小灯，灯芯只剩豆大一点火，却比昨夜更亮。"

var chatChecks = []check{
	{name: "Chat", run: chat},
	{name: "Chat without a request id", run: chatWithoutRequestID},
	{name: "ChatStream", run: chatStream},
	{name: "session", run: session},
}

var repeatChecks = []check{
	{name: "Chat again", run: chatAgain},
	{name: "ChatStream again", run: chatStreamAgain},
	{name: "the id with another body", run: reusedRequestID},
}

// chat asks one question and takes the answer as a whole. The caller chooses the request id: a retry with the same id is
// answered, not run a second time.
func chat(ctx context.Context, s *system) (string, error) {
	request := question("请用一两句话说说：下面这段里，沈砚怀里揣着什么？\n\n" + passage)
	var header, trailer metadata.MD
	answer, err := s.agent.Chat(ctx, request, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		return "", err
	}
	text := answer.GetMessage().GetContent()
	if strings.TrimSpace(text) == "" || answer.GetMessage().GetRole() != "assistant" || answer.GetStatus().GetCode() != 0 {
		return "", fmt.Errorf("the answer is not one: %v", answer)
	}
	chosen := request.GetMetadata().GetRequestId()
	if id := one(header, requestIDKey); id != chosen {
		return "", fmt.Errorf("the initial metadata has %s %q, chosen was %q", requestIDKey, id, chosen)
	}
	used, err := usageOf(trailer, chosen)
	if err != nil {
		return "", err
	}
	if got := int(answer.GetTokensUsed()); got != used.prompt+used.completion {
		return "", fmt.Errorf("tokens_used is %d, the trailing metadata has %d + %d", got, used.prompt, used.completion)
	}
	return fmt.Sprintf("%d characters; %s", utf8.RuneCountInString(text), used), nil
}

// madeRequestID is the form of an id that the bridge makes.
var madeRequestID = regexp.MustCompile(`^req_[0-9]{19}_[0-9a-f]{8}$`)

// chatWithoutRequestID chooses no id, and learns from the initial metadata which one the bridge made.
func chatWithoutRequestID(ctx context.Context, s *system) (string, error) {
	request := question("你好。")
	request.Metadata.RequestId = ""
	var header, trailer metadata.MD
	if _, err := s.agent.Chat(ctx, request, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		return "", err
	}
	made := one(header, requestIDKey)
	if !madeRequestID.MatchString(made) {
		return "", fmt.Errorf("the initial metadata has %s %q", requestIDKey, made)
	}
	if _, err := usageOf(trailer, made); err != nil {
		return "", err
	}
	return made, nil
}

// chatStream takes the answer as it appears. Only the final chunk says that the answer is whole.
func chatStream(ctx context.Context, s *system) (string, error) {
	got, err := stream(ctx, s, question("请接着下面这段往下写两三句，保持语气。\n\n"+passage))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("first chunk after %s, %d chunks, %d characters; %s",
		rounded(got.first), got.chunks, utf8.RuneCountInString(got.text), got.usage), nil
}

// session holds a conversation of two turns. The second sends only its own question; that the first is remembered shows
// in the size of its prompt. Another user who names the same session starts from nothing.
func session(ctx context.Context, s *system) (string, error) {
	name := "smoke-" + randomHex()
	turn := func(user, text string) (int, error) {
		request := question(text)
		request.SessionId = name
		request.Metadata.UserId = user
		got, err := stream(ctx, s, request)
		return got.usage.prompt, err
	}
	const again = "他怀里揣着什么？"
	first, err := turn(reader, "请记住下面这段。\n\n"+passage)
	if err != nil {
		return "", err
	}
	second, err := turn(reader, again)
	if err != nil {
		return "", err
	}
	stranger, err := turn(other, again)
	if err != nil {
		return "", err
	}
	prompts := fmt.Sprintf("prompts of %d and then %d tokens, another user's %d", first, second, stranger)
	if second <= first {
		return "", fmt.Errorf("the session was forgotten: %s", prompts)
	}
	if stranger >= first {
		return "", fmt.Errorf("another user sees the session: %s", prompts)
	}
	return prompts, nil
}

// chatAgain retries a call that was answered, as a caller does who lost the answer. The digest of a request leaves the
// metadata out, so that a retry may carry another timestamp.
func chatAgain(ctx context.Context, s *system) (string, error) {
	request := question("沈砚为什么不能过河？\n\n" + passage)
	first, err := s.agent.Chat(ctx, request)
	if err != nil {
		return "", err
	}
	request.Metadata.Timestamp++
	began := time.Now()
	second, err := s.agent.Chat(ctx, request)
	if err != nil {
		return "", err
	}
	if !proto.Equal(first, second) {
		return "", fmt.Errorf("first %v, then %v", first, second)
	}
	return fmt.Sprintf("the same answer after %s", rounded(time.Since(began))), nil
}

// chatStreamAgain asks for a stream again from its beginning.
func chatStreamAgain(ctx context.Context, s *system) (string, error) {
	request := question("老艄公在做什么？\n\n" + passage)
	first, err := stream(ctx, s, request)
	if err != nil {
		return "", err
	}
	began := time.Now()
	second, err := stream(ctx, s, request)
	if err != nil {
		return "", err
	}
	if first.text != second.text || first.usage != second.usage {
		return "", fmt.Errorf("first %q (%s), then %q (%s)", first.text, first.usage, second.text, second.usage)
	}
	return fmt.Sprintf("the same text after %s", rounded(time.Since(began))), nil
}

// reusedRequestID uses an id for another question: a defect of the caller, who must not get the first question's answer.
func reusedRequestID(ctx context.Context, s *system) (string, error) {
	request := question("今天天气如何？")
	if _, err := s.agent.Chat(ctx, request); err != nil {
		return "", err
	}
	request.Messages[0].Content = "明天天气如何？"
	_, err := s.agent.Chat(ctx, request)
	return expect(err, codes.AlreadyExists, "REQUEST_ID_REUSED")
}

// question is a chat of one message, with an id of its own.
func question(text string) *agent.ChatRequest {
	return &agent.ChatRequest{
		Messages: []*common.Message{{Role: "user", Content: text}},
		Metadata: asking(),
	}
}

// asking says who asks, and under which id.
func asking() *common.Metadata {
	return &common.Metadata{
		RequestId: fmt.Sprintf("req_%d_%s", time.Now().UnixNano(), randomHex()),
		UserId:    reader,
		ProjectId: project,
		Timestamp: time.Now().Unix(),
	}
}

func randomHex() string {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails, says its documentation
	return hex.EncodeToString(random)
}

// streamed is an answer that came in chunks, and what came before and after them.
type streamed struct {
	text            string
	chunks          int
	first           time.Duration
	header, trailer metadata.MD
	usage           usage
}

// stream takes a ChatStream to its end, and reads what came beside the text.
func stream(ctx context.Context, s *system, request *agent.ChatRequest) (streamed, error) {
	got, err := receive(ctx, s, request)
	if err != nil {
		return got, err
	}
	chosen := request.GetMetadata().GetRequestId()
	if id := one(got.header, requestIDKey); id != chosen {
		return got, fmt.Errorf("the initial metadata has %s %q, chosen was %q", requestIDKey, id, chosen)
	}
	got.usage, err = usageOf(got.trailer, chosen)
	return got, err
}

// receive takes a ChatStream to its end, and accepts nothing but a whole one.
func receive(ctx context.Context, s *system, request *agent.ChatRequest) (streamed, error) {
	var got streamed
	// A stream that is left before its end leaks, unless its context is cancelled.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	chunks, err := s.agent.ChatStream(ctx, request)
	if err != nil {
		return got, err
	}
	final := false
	for {
		chunk, err := chunks.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return got, fmt.Errorf("after %s and %d chunks: %w", rounded(time.Since(began)), got.chunks, err)
		}
		if final {
			return got, errors.New("a chunk came after the final one")
		}
		if got.chunks == 0 {
			got.first = time.Since(began)
		}
		got.chunks++
		got.text += chunk.GetDelta()
		final = chunk.GetIsFinal()
	}
	if !final {
		return got, errors.New("the stream ended without a final chunk")
	}
	if strings.TrimSpace(got.text) == "" {
		return got, errors.New("the text is empty")
	}
	got.trailer = chunks.Trailer()
	got.header, err = chunks.Header()
	return got, err
}
