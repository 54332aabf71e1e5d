// Command smoke calls every RPC of the contract as a Go backend does, and says of each whether it behaved.
//
//	go run ./smoke -target 127.0.0.1:50051 -echo-target 127.0.0.1:50052
//
// The target is a bridge with chat, tool, agent and retrieval workers behind it. The echo target is a bridge whose only worker is
// bench.echo_worker, a chat worker which can be told to be slow or silent; without one, the checks that need it are skipped.
//
// Exit status 0: every check that ran is ok. 1: one is not, or there was none. 2: the flags do not hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"

	"google.golang.org/grpc"

	"qingyu.ai/clients/go/gen/agent"
	"qingyu.ai/clients/go/gen/control"
	"qingyu.ai/clients/go/gen/rag"
	"qingyu.ai/clients/go/gen/tool"
)

// checkTimeout bounds each check, so that a call that hangs is a failure and not a program that hangs.
const checkTimeout = 30 * time.Second

// A check calls the system and returns a few words on what it saw, or an error that says what was wrong.
type check struct {
	name string
	run  func(ctx context.Context, s *system) (string, error)
	// A check on the echo target needs a chat worker that can be told to be slow or silent, or no worker of another kind.
	echo bool
	// A quiet check only waits, for so long: it has a connection of its own, and runs beside all others.
	quiet time.Duration
}

// A group of checks has a title of its own.
type group struct {
	title  string
	checks []check
}

// system is a bridge with a connection to it.
type system struct {
	conn       *grpc.ClientConn
	transports *transports
	agent      agent.AIAgentServiceClient
	rag        rag.RAGServiceClient
	tool       tool.ToolServiceClient
	control    control.CallControlClient
}

// connect dials a bridge.
func connect(target string) (*system, error) {
	watch := &transports{}
	conn, err := dial(context.Background(), target, grpc.WithStatsHandler(watch))
	if err != nil {
		return nil, err
	}
	return &system{
		conn:       conn,
		transports: watch,
		agent:      agent.NewAIAgentServiceClient(conn),
		rag:        rag.NewRAGServiceClient(conn),
		tool:       tool.NewToolServiceClient(conn),
		control:    control.NewCallControlClient(conn),
	}, nil
}

func main() {
	target := flag.String("target", "127.0.0.1:50051", "the bridge, host:port")
	echoTarget := flag.String("echo-target", "", "a bridge in front of bench.echo_worker, host:port; empty: none")
	seconds := flag.Float64("quiet-seconds", 75, "how long the connection is idle, and a stream silent")
	only := flag.String("run", "", "run only the checks whose names match this regular expression")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil || *seconds <= 0 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "smoke: -run takes a regular expression, -quiet-seconds more than 0; there are no arguments")
		os.Exit(2)
	}
	quiet := time.Duration(*seconds * float64(time.Second))
	echoes := *echoTarget
	if echoes == "" {
		echoes = "none"
	}
	fmt.Printf("target %s, echo target %s, quiet for %s\n", *target, echoes, rounded(quiet))
	r := &runner{wanted: wanted, count: map[verdict]int{}}
	if r.system, err = connect(*target); err == nil && *echoTarget != "" {
		r.echo, err = connect(*echoTarget)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "smoke:", err)
		os.Exit(1)
	}
	if !r.run([]group{
		{"Health", healthChecks},
		{"Chat", chatChecks},
		{"Tools", toolChecks},
		{"Retrieval", retrievalChecks},
		{"Agents", agentChecks},
		{"The same request again", repeatChecks},
		{"Requests that do not hold", invalidChecks},
		{"Without a worker", workerlessChecks},
		{"Streams that end early", earlyChecks},
		{"Calls by their name", controlChecks},
		{"Silence", quietChecks(quiet)},
	}) {
		os.Exit(1)
	}
}

// runner runs checks and prints a line for each, in order.
type runner struct {
	system *system
	echo   *system // nil: there is none
	wanted *regexp.Regexp
	count  map[verdict]int
}

// verdict is what the line of a check begins with.
type verdict string

const (
	passed  verdict = "ok"
	failed  verdict = "FAIL"
	skipped verdict = "skip"
)

// errSkipped marks a check that had nothing to look at.
var errSkipped = errors.New("skipped")

// outcome is what became of a check.
type outcome struct {
	said string
	err  error
	took time.Duration
}

// run returns whether all is well.
func (r *runner) run(groups []group) bool {
	began := time.Now()
	// The quiet ones begin first: all others are done before they are.
	waiting := map[string]chan outcome{}
	for _, g := range groups {
		for _, c := range g.checks {
			if c.quiet > 0 && r.wanted.MatchString(c.name) {
				result := make(chan outcome, 1)
				waiting[c.name] = result
				go func() { result <- r.outcome(c) }()
			}
		}
	}
	for _, g := range groups {
		titled := false
		for _, c := range g.checks {
			if !r.wanted.MatchString(c.name) {
				continue
			}
			if !titled {
				fmt.Printf("\n%s\n", g.title)
				titled = true
			}
			if result, begun := waiting[c.name]; begun {
				r.show(c, <-result)
			} else {
				r.show(c, r.outcome(c))
			}
		}
	}
	fmt.Printf("\n%d ok, %d failed, %d skipped in %s\n",
		r.count[passed], r.count[failed], r.count[skipped], rounded(time.Since(began)))
	return r.count[failed] == 0 && r.count[passed] > 0
}

// outcome runs a check.
func (r *runner) outcome(c check) outcome {
	s := r.system
	if c.echo {
		s = r.echo
	}
	if s == nil {
		return outcome{err: fmt.Errorf("%w: it needs -echo-target", errSkipped)}
	}
	if c.quiet > 0 {
		own, err := connect(s.conn.Target())
		if err != nil {
			return outcome{err: err}
		}
		defer own.conn.Close()
		s = own
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.quiet+checkTimeout)
	defer cancel()
	began := time.Now()
	said, err := c.run(ctx, s)
	return outcome{said, err, time.Since(began)}
}

func (r *runner) show(c check, o outcome) {
	v, said := passed, o.said
	switch {
	case errors.Is(o.err, errSkipped):
		v, said = skipped, o.err.Error()
	case o.err != nil:
		v, said = failed, o.err.Error()
	}
	r.count[v]++
	fmt.Printf("  %-4s %7s  %-28s %s\n", v, rounded(o.took), c.name, said)
}

// rounded is a duration as a person wants to read it.
func rounded(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
}
