package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// domain is ErrorInfo.domain of every error of this system.
const domain = "qingyu.ai"

// refusal is what an error says beside its code: what a backend needs to decide whether to retry, and what to show.
type refusal struct {
	code       codes.Code
	message    string
	domain     string
	reason     string
	retryAfter time.Duration
	fields     []string
	chinese    string
}

// explain reads the details of an error.
func explain(err error) refusal {
	from := status.Convert(err)
	r := refusal{code: from.Code(), message: from.Message()}
	for _, detail := range from.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			r.domain, r.reason = d.GetDomain(), d.GetReason()
		case *errdetails.RetryInfo:
			r.retryAfter = d.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, violation := range d.GetFieldViolations() {
				r.fields = append(r.fields, violation.GetField())
			}
		case *errdetails.LocalizedMessage:
			if d.GetLocale() == "zh-CN" {
				r.chinese = d.GetMessage()
			}
		}
	}
	return r
}

// expect looks at an error that must come, and returns it in two words. Whatever the error, it has a domain, a reason to
// switch on, and a message in Chinese that may be shown.
func expect(err error, code codes.Code, reason string) (string, error) {
	if err == nil {
		return "", fmt.Errorf("OK instead of %s", code)
	}
	r := explain(err)
	switch {
	case r.code != code:
		return "", fmt.Errorf("%s instead of %s: %s", r.code, code, r.message)
	case r.domain != domain || r.reason != reason:
		return "", fmt.Errorf("ErrorInfo says %q of %q instead of %q of %q", r.reason, r.domain, reason, domain)
	case r.message == "" || !strings.ContainsFunc(r.chinese, func(c rune) bool { return unicode.Is(unicode.Han, c) }):
		return "", fmt.Errorf("the messages are %q and, in zh-CN, %q", r.message, r.chinese)
	}
	return fmt.Sprintf("%s %s", r.code, r.reason), nil
}

// usage is what an answer cost and where it came from. A chunk has room for text only, so this travels in the trailing
// metadata.
type usage struct {
	prompt, completion int
	estimated          bool
	finish, model      string
}

func (u usage) String() string {
	about := ""
	if u.estimated {
		about = " (estimated)"
	}
	return fmt.Sprintf("%d + %d tokens%s, %s, %s", u.prompt, u.completion, about, u.finish, u.model)
}

func usageOf(trailer metadata.MD, requestID string) (usage, error) {
	var u usage
	var errs [3]error
	u.prompt, errs[0] = strconv.Atoi(one(trailer, "x-usage-prompt"))
	u.completion, errs[1] = strconv.Atoi(one(trailer, "x-usage-completion"))
	u.estimated, errs[2] = strconv.ParseBool(one(trailer, "x-usage-estimated"))
	u.finish, u.model = one(trailer, "x-finish-reason"), one(trailer, "x-model")
	if errors.Join(errs[:]...) != nil || u.prompt <= 0 || u.completion <= 0 || u.finish == "" || u.model == "" {
		return u, fmt.Errorf("the trailing metadata does not tell the usage: %v", trailer)
	}
	if id := one(trailer, requestIDKey); id != requestID {
		return u, fmt.Errorf("the trailing metadata has %s %q instead of %q", requestIDKey, id, requestID)
	}
	return u, nil
}

// one is the value of a key that must have one; anything else is empty.
func one(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) == 1 {
		return values[0]
	}
	return ""
}
