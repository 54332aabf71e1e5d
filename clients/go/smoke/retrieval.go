package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/metadata"

	"qingyu.ai/clients/go/gen/rag"
)

var retrievalChecks = []check{
	{name: "IndexDocument", run: indexes},
	{name: "Search", run: finds},
	{name: "Search of another user", run: strangersFindNothing},
	{name: "IndexDocument again", run: replaces},
	{name: "DeleteDocument", run: deletes},
	{name: "BatchIndex", run: batch},
	{name: "a result count below 0", run: invalid(negativeTopK, "top_k")},
	{name: "a document without a name", run: invalid(namelessDocument, "document_id")},
}

const (
	// opened and closed stand around what matched, in a highlight.
	opened, closed = "⟦", "⟧"

	chapter = "chapter"
)

// indexes stores a document.
func indexes(ctx context.Context, s *system) (string, error) {
	one := aDocument(newProject(), "indexed", passage)
	defer discard(s, one)
	stored, err := put(ctx, s, one)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d characters, %d chunks", utf8.RuneCountInString(one.GetContent()), stored.GetChunksCount()), nil
}

// finds searches for a document that was stored just now: by words, within its project, its type and its metadata.
func finds(ctx context.Context, s *system) (string, error) {
	one := aDocument(newProject(), "found", passage)
	defer discard(s, one)
	if _, err := put(ctx, s, one); err != nil {
		return "", err
	}
	request := looking("青铜小灯", one)
	request.ContentTypes = []string{chapter}
	request.Options.Filters = one.GetMetadata()
	answer, err := s.rag.Search(ctx, request)
	if err != nil {
		return "", err
	}
	if len(answer.GetResults()) == 0 || int(answer.GetTotalCount()) < len(answer.GetResults()) {
		return "", fmt.Errorf("%d results of %d", len(answer.GetResults()), answer.GetTotalCount())
	}
	best := answer.GetResults()[0]
	switch {
	case best.GetDocumentId() != one.GetDocumentId() || best.GetContentType() != chapter:
		return "", fmt.Errorf("the first result is %v", best)
	case !strings.Contains(passage, best.GetContent()) || best.GetMetadata()["volume"] != "1":
		return "", fmt.Errorf("the result is not what was stored: %v", best)
	case best.GetScore() <= 0 || best.GetScore() > 1:
		return "", fmt.Errorf("the score is %g", best.GetScore())
	case len(best.GetHighlights()) == 0:
		return "", errors.New("nothing is highlighted")
	}
	for _, highlight := range best.GetHighlights() {
		plain := strings.NewReplacer(opened, "", closed, "").Replace(highlight)
		if !utf8.ValidString(highlight) || !strings.Contains(best.GetContent(), plain) || plain == highlight {
			return "", fmt.Errorf("the highlight %q is not a marked part of the chunk", highlight)
		}
	}
	request.Options.Filters = map[string]string{"volume": "2"}
	if err := nothing(ctx, s, request); err != nil {
		return "", fmt.Errorf("among documents with other metadata: %w", err)
	}
	return fmt.Sprintf("score %.2f, %s, in %d ms", best.GetScore(), best.GetHighlights()[0], answer.GetDurationMs()), nil
}

// strangersFindNothing asks for the document as another user, in all the ways that name it.
func strangersFindNothing(ctx context.Context, s *system) (string, error) {
	one := aDocument(newProject(), "private", passage)
	defer discard(s, one)
	if _, err := put(ctx, s, one); err != nil {
		return "", err
	}
	for _, within := range []string{one.GetProjectId(), ""} {
		request := looking("青铜小灯", one)
		request.UserId, request.ProjectId = other, within
		request.Metadata.UserId, request.Metadata.ProjectId = other, within
		if err := nothing(ctx, s, request); err != nil {
			return "", fmt.Errorf("%s in project %q: %w", other, within, err)
		}
	}
	gone, err := s.rag.DeleteDocument(ctx, &rag.DeleteRequest{DocumentId: one.GetDocumentId(), UserId: other})
	if err != nil {
		return "", err
	}
	if gone.GetSuccess() {
		return "", fmt.Errorf("%s deletes it", other)
	}
	if _, err := only(ctx, s, one, "青铜小灯"); err != nil {
		return "", fmt.Errorf("its owner, after that: %w", err)
	}
	return "neither found nor deleted", nil
}

// replaces stores another text under the same name: the old one is found no more.
func replaces(ctx context.Context, s *system) (string, error) {
	one := aDocument(newProject(), "replaced", passage)
	defer discard(s, one)
	if _, err := put(ctx, s, one); err != nil {
		return "", err
	}
	one.Content = "天晴了。许七把船牌翻过来，搁在门槛上。"
	if _, err := put(ctx, s, one); err != nil {
		return "", err
	}
	text, err := only(ctx, s, one, "许七的船牌")
	if err != nil {
		return "", err
	}
	if text != one.GetContent() {
		return "", fmt.Errorf("there is %q instead of %q", text, one.GetContent())
	}
	return "the new text, and none of the old", nil
}

// deletes removes a document, and once more: that it is not there is an answer, not an error.
func deletes(ctx context.Context, s *system) (string, error) {
	one := aDocument(newProject(), "deleted", passage)
	if _, err := put(ctx, s, one); err != nil {
		return "", err
	}
	request := &rag.DeleteRequest{DocumentId: one.GetDocumentId(), UserId: one.GetUserId()}
	gone, err := s.rag.DeleteDocument(ctx, request)
	if err != nil {
		return "", err
	}
	if !gone.GetSuccess() {
		return "", fmt.Errorf("it was not there: %s", gone.GetMessage())
	}
	if err := nothing(ctx, s, looking("青铜小灯", one)); err != nil {
		return "", fmt.Errorf("after that: %w", err)
	}
	again, err := s.rag.DeleteDocument(ctx, request)
	if err != nil {
		return "", err
	}
	if again.GetSuccess() || again.GetMessage() == "" {
		return "", fmt.Errorf("the second time: %v", again)
	}
	return "gone; the second time: " + again.GetMessage(), nil
}

// batch stores some documents of which one is bad: the others are stored, and it is named.
func batch(ctx context.Context, s *system) (string, error) {
	const size, bad = 9, 4
	// With its request id a batch that is sent again stores nothing twice.
	call, err := s.rag.BatchIndex(metadata.AppendToOutgoingContext(ctx, requestIDKey, asking().GetRequestId()))
	if err != nil {
		return "", err
	}
	within := newProject()
	var sent []*rag.IndexRequest
	for n := range size {
		one := aDocument(within, fmt.Sprintf("batch-%d", n), fmt.Sprintf("%s第%d盏。", passage, n))
		if n == bad {
			one.Content = "灯\x00灭"
		}
		sent = append(sent, one)
		defer discard(s, one)
		if err := call.Send(one); err != nil {
			break // why, CloseAndRecv tells
		}
	}
	answer, err := call.CloseAndRecv()
	if err != nil {
		return "", err
	}
	if answer.GetTotal() != size || answer.GetSuccessCount() != size-1 || answer.GetFailedCount() != 1 ||
		!slices.Equal(answer.GetFailedIds(), []string{sent[bad].GetDocumentId()}) {
		return "", fmt.Errorf("of %d with one bad: %v", size, answer)
	}
	request := looking("青铜小灯", sent[0])
	request.TopK = 10 * size
	found, err := s.rag.Search(ctx, request)
	if err != nil {
		return "", err
	}
	ids := map[string]bool{}
	for _, result := range found.GetResults() {
		ids[result.GetDocumentId()] = true
	}
	if len(ids) != size-1 || ids[sent[bad].GetDocumentId()] {
		return "", fmt.Errorf("%d documents are found: %v", len(ids), ids)
	}
	return fmt.Sprintf("%d of %d, and the bad one is named", answer.GetSuccessCount(), answer.GetTotal()), nil
}

func negativeTopK(ctx context.Context, s *system) error {
	request := looking("青铜小灯", document())
	request.TopK = -1
	_, err := s.rag.Search(ctx, request)
	return err
}

func namelessDocument(ctx context.Context, s *system) error {
	one := document()
	one.DocumentId = ""
	_, err := s.rag.IndexDocument(ctx, one)
	return err
}

// newProject names a project that nothing is in.
func newProject() string {
	return project + "-" + randomHex()
}

func aDocument(within, name, text string) *rag.IndexRequest {
	return &rag.IndexRequest{
		DocumentId:  within + "/" + name,
		Content:     text,
		ContentType: chapter,
		UserId:      reader,
		ProjectId:   within,
		Metadata:    map[string]string{"volume": "1"},
	}
}

// looking is a search by words and by meaning among the documents of one's project.
func looking(query string, one *rag.IndexRequest) *rag.SearchRequest {
	about := asking()
	about.ProjectId = one.GetProjectId()
	return &rag.SearchRequest{
		Query:     query,
		UserId:    one.GetUserId(),
		ProjectId: one.GetProjectId(),
		Options:   &rag.SearchOptions{EnableHybrid: true},
		Metadata:  about,
	}
}

// nothing expects that a search finds nothing.
func nothing(ctx context.Context, s *system, request *rag.SearchRequest) error {
	answer, err := s.rag.Search(ctx, request)
	if err == nil && (len(answer.GetResults()) > 0 || answer.GetTotalCount() != 0) {
		err = fmt.Errorf("found %v", answer.GetResults())
	}
	return err
}

// put stores a document and looks at the answer.
func put(ctx context.Context, s *system, one *rag.IndexRequest) (*rag.IndexResponse, error) {
	answer, err := s.rag.IndexDocument(ctx, one)
	if err != nil {
		return nil, err
	}
	if !answer.GetSuccess() || answer.GetDocumentId() != one.GetDocumentId() || answer.GetChunksCount() < 1 {
		return nil, fmt.Errorf("it was not stored: %v", answer)
	}
	return answer, nil
}

// only searches the document's own project, and returns the text of its one result.
func only(ctx context.Context, s *system, one *rag.IndexRequest, query string) (string, error) {
	answer, err := s.rag.Search(ctx, looking(query, one))
	if err != nil {
		return "", err
	}
	if len(answer.GetResults()) != 1 || answer.GetResults()[0].GetDocumentId() != one.GetDocumentId() {
		return "", fmt.Errorf("found instead of one chunk of %s: %v", one.GetDocumentId(), answer.GetResults())
	}
	return answer.GetResults()[0].GetContent(), nil
}

// discard removes a document whatever became of the check; one that is not there does no harm.
func discard(s *system, one *rag.IndexRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	_, _ = s.rag.DeleteDocument(ctx, &rag.DeleteRequest{DocumentId: one.GetDocumentId(), UserId: one.GetUserId()})
}
