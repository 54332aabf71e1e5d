package main

import (
	"maps"
	"strings"
	"testing"

	"qingyu.ai/clients/go/gen/agent"
)

// a chunk of a stream that keeps its promises; a test breaks one.
func chunk(kind, seq, delta string, facts map[string]string) *agent.AgentStreamChunk {
	all := map[string]string{"seq": seq, "elapsed_ms": "5"}
	maps.Copy(all, facts)
	return &agent.AgentStreamChunk{ChunkType: kind, Delta: delta, Metadata: all}
}

func good() []*agent.AgentStreamChunk {
	called := map[string]string{"tool_name": counter, "call_id": "c1"}
	start := chunk("tool_start", "1", "", called)
	start.Metadata["parameters"] = `{"text": "雨"}`
	end := chunk("tool_end", "2", "", called)
	maps.Copy(end.Metadata, map[string]string{"success": "true", "result": `{"zi": 1}`, "duration_ms": "3"})
	final := chunk("text", "6", "", map[string]string{
		"status": "completed", "code": "0", "tokens_used": "9", "duration_ms": "7", "tool_calls_count": "1", "retry_count": "0",
	})
	final.IsFinal = true
	return []*agent.AgentStreamChunk{chunk("reasoning", "0", "想", nil), start, end, chunk("text", "5", "雨停了。", nil), final}
}

func followAll(chunks []*agent.AgentStreamChunk) error {
	got := followed{open: map[string]string{}}
	for _, one := range chunks {
		if err := got.add(one); err != nil {
			return err
		}
	}
	return got.whole()
}

func TestWholeStreamIsTaken(t *testing.T) {
	if err := followAll(good()); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenPromiseOfAStreamIsNamed(t *testing.T) {
	const start, end, text, final = 1, 2, 3, 4
	type stream = []*agent.AgentStreamChunk
	for _, one := range []struct {
		says  string
		wrong func(s stream) stream
	}{
		{"without a final chunk", func(s stream) stream { return s[:final] }},
		{"came after the final one", func(s stream) stream { return append(s, chunk("text", "7", "还有", nil)) }},
		{"came after the final one", func(s stream) stream { return append(s, s[final]) }},
		{`its seq is "1" after 2`, func(s stream) stream { s[text].Metadata["seq"] = "1"; return s }},
		{`its seq is "" after -1`, func(s stream) stream { delete(s[0].Metadata, "seq"); return s }},
		{"was not started", func(s stream) stream { s[end].Metadata["call_id"] = "c2"; return s }},
		{"was not started", func(s stream) stream { return append(s[:start], s[end:]...) }},
		{"never ended", func(s stream) stream { return append(s[:end], s[text:]...) }},
		{"what is called", func(s stream) stream { s[start].Metadata["parameters"] = "雨"; return s }},
		{"what came of the tool", func(s stream) stream { s[end].Metadata["result"] = "[1]"; return s }},
		{"what came of the tool", func(s stream) stream { delete(s[end].Metadata, "duration_ms"); return s }},
		{"none of the contract's", func(s stream) stream { s[text].ChunkType = "image"; return s }},
		{"the text is empty", func(s stream) stream { s[text].Delta = " "; return s }},
		{`ended "failed"`, func(s stream) stream { s[final].Metadata["status"] = "failed"; return s }},
		{"1 tools ended", func(s stream) stream { s[final].Metadata["tool_calls_count"] = "2"; return s }},
		{"tokens_used", func(s stream) stream { s[final].Metadata["tokens_used"] = "0"; return s }},
		{"duration_ms", func(s stream) stream { delete(s[final].Metadata, "duration_ms"); return s }},
		{"retry_count", func(s stream) stream { s[final].Metadata["retry_count"] = "-1"; return s }},
	} {
		if err := followAll(one.wrong(good())); err == nil || !strings.Contains(err.Error(), one.says) {
			t.Errorf("%v does not say %q", err, one.says)
		}
	}
}
