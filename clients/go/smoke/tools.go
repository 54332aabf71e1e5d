package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"qingyu.ai/clients/go/gen/tool"
)

// counter is the tool of every deployment that the checks call.
const counter = "text_statistics"

var toolChecks = []check{
	{name: "ListTools", run: listsTools},
	{name: "GetToolInfo", run: describesTool},
	{name: "CallTool", run: callsTool},
	{name: "a tool that there is not", run: unknownTool},
	{name: "parameters of another type", run: badParameters(`{"text": 3}`, "parameters.text")},
	{name: "parameters that lack one", run: badParameters(`{}`, "parameters.text")},
	{name: "parameters with one too many", run: badParameters(`{"text": "雨", "colour": "蓝"}`, "parameters.colour")},
	{name: "parameters that are no JSON", run: badParameters(`{"text": `, "parameters")},
	{name: "a tool for verified users", run: toolForVerifiedUsers},
}

// listsTools asks which tools there are, and which of one category.
func listsTools(ctx context.Context, s *system) (string, error) {
	all, err := tools(ctx, s, "")
	if err != nil {
		return "", err
	}
	var names []string
	for _, one := range all {
		if one.GetName() == "" || one.GetDescription() == "" || one.GetCategory() == "" {
			return "", fmt.Errorf("a tool without a name, a description or a category: %v", one)
		}
		if slices.Contains(names, one.GetName()) {
			return "", fmt.Errorf("%s is listed twice", one.GetName())
		}
		names = append(names, one.GetName())
	}
	if !slices.Contains(names, counter) {
		return "", fmt.Errorf("%s is not in %v", counter, names)
	}
	const category = "text"
	some, err := tools(ctx, s, category)
	if err != nil {
		return "", err
	}
	for _, one := range some {
		if one.GetCategory() != category {
			return "", fmt.Errorf("among those of category %q is %v", category, one)
		}
	}
	if len(some) == 0 || len(some) >= len(all) {
		return "", fmt.Errorf("%d of %d tools are of category %q", len(some), len(all), category)
	}
	return fmt.Sprintf("%d tools, %d of category %q", len(all), len(some), category), nil
}

// describesTool asks for one tool, and gets what the list says of it.
func describesTool(ctx context.Context, s *system) (string, error) {
	all, err := tools(ctx, s, "")
	if err != nil {
		return "", err
	}
	info, err := s.tool.GetToolInfo(ctx, &tool.GetToolInfoRequest{ToolName: counter})
	if err != nil {
		return "", err
	}
	listed := slices.IndexFunc(all, func(one *tool.ToolInfo) bool { return one.GetName() == counter })
	if listed < 0 || !proto.Equal(info, all[listed]) {
		return "", fmt.Errorf("the list does not say the same as %v", info)
	}
	text := slices.IndexFunc(info.GetParameters(), func(p *tool.ToolParameter) bool { return p.GetName() == "text" })
	if text < 0 {
		return "", fmt.Errorf("no parameter is text: %v", info)
	}
	if p := info.GetParameters()[text]; p.GetType() != "string" || !p.GetRequired() || p.GetDescription() == "" {
		return "", fmt.Errorf("the parameter text is %v", p)
	}
	return fmt.Sprintf("%s, as in the list, with %d parameter", info.GetName(), len(info.GetParameters())), nil
}

// callsTool counts a passage, and counts again.
func callsTool(ctx context.Context, s *system) (string, error) {
	answer, err := s.tool.CallTool(ctx, counting(passage))
	if err != nil {
		return "", err
	}
	if !answer.GetSuccess() || answer.GetError() != "" || answer.GetStatus().GetCode() != 0 {
		return "", fmt.Errorf("it failed: %v", answer)
	}
	var result struct{ Characters, Dialogues int }
	if err := json.Unmarshal([]byte(answer.GetResult()), &result); err != nil {
		return "", fmt.Errorf("the result is no JSON: %w", err)
	}
	wanted := struct{ Characters, Dialogues int }{utf8.RuneCountInString(passage), strings.Count(passage, "“")}
	if result != wanted {
		return "", fmt.Errorf("it counted %+v of %+v", result, wanted)
	}
	return fmt.Sprintf("%d characters, %d dialogue, in %d ms", result.Characters, result.Dialogues, answer.GetDurationMs()), nil
}

// unknownTool calls and asks about a tool that nobody has.
func unknownTool(ctx context.Context, s *system) (string, error) {
	request := counting(passage)
	request.ToolName = "no_such_tool"
	_, err := s.tool.CallTool(ctx, request)
	said, wrong := expect(err, codes.NotFound, "NOT_FOUND")
	if wrong != nil {
		return "", fmt.Errorf("CallTool: %w", wrong)
	}
	_, err = s.tool.GetToolInfo(ctx, &tool.GetToolInfoRequest{ToolName: request.ToolName})
	if _, wrong := expect(err, codes.NotFound, "NOT_FOUND"); wrong != nil {
		return "", fmt.Errorf("GetToolInfo: %w", wrong)
	}
	return said, nil
}

// badParameters expects that the tool does not run, and that the parameter is named.
func badParameters(parameters, field string) func(context.Context, *system) (string, error) {
	return invalid(func(ctx context.Context, s *system) error {
		request := counting(passage)
		request.Parameters = parameters
		_, err := s.tool.CallTool(ctx, request)
		return err
	}, field)
}

// toolForVerifiedUsers calls a tool that is for users whom the edge has verified. The bridge verifies nobody here.
func toolForVerifiedUsers(ctx context.Context, s *system) (string, error) {
	all, err := tools(ctx, s, "")
	if err != nil {
		return "", err
	}
	closed := slices.IndexFunc(all, (*tool.ToolInfo).GetRequiresAuth)
	if closed < 0 {
		return "", fmt.Errorf("%w: this system has no tool for verified users only", errSkipped)
	}
	request := counting(passage)
	request.ToolName = all[closed].GetName()
	_, err = s.tool.CallTool(ctx, request)
	said, wrong := expect(err, codes.Unauthenticated, "UNAUTHENTICATED")
	return fmt.Sprintf("%s: %s", request.ToolName, said), wrong
}

func tools(ctx context.Context, s *system, category string) ([]*tool.ToolInfo, error) {
	answer, err := s.tool.ListTools(ctx, &tool.ListToolsRequest{Category: category})
	if err == nil && len(answer.GetTools()) == 0 {
		err = errors.New("there are no tools")
	}
	return answer.GetTools(), err
}

func counting(text string) *tool.ToolRequest {
	parameters, _ := json.Marshal(map[string]string{"text": text}) // a text always can be written
	return &tool.ToolRequest{ToolName: counter, Parameters: string(parameters), UserId: reader, Metadata: asking()}
}
