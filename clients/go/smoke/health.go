package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"

	"qingyu.ai/clients/go/gen/agent"
	"qingyu.ai/clients/go/gen/rag"
	"qingyu.ai/clients/go/gen/tool"
)

var healthChecks = []check{
	{name: "HealthCheck", run: healthCheck},
	{name: "grpc.health.v1", run: standardHealth},
	{name: "reflection", run: reflection},
}

// healthCheck asks for the state of the whole system: `healthy`, with a word on every component.
func healthCheck(ctx context.Context, s *system) (string, error) {
	answer, err := s.agent.HealthCheck(ctx, &agent.HealthRequest{})
	if err != nil {
		return "", err
	}
	details := answer.GetDetails()
	var parts []string
	for part, state := range details {
		parts = append(parts, part+": "+state)
	}
	slices.Sort(parts)
	if answer.GetStatus() != "healthy" {
		return "", fmt.Errorf("the system says it is %q: %s", answer.GetStatus(), strings.Join(parts, ", "))
	}
	for _, part := range []string{"bus", "worker.chat", "store", "model"} {
		if details[part] == "" {
			return "", fmt.Errorf("the details lack %q: %v", part, details)
		}
	}
	if details["worker.rag"] != "" && !strings.HasPrefix(details["store"], "PostgreSQL ") {
		return "", fmt.Errorf("a retrieval worker is there, and its database is %q", details["store"])
	}
	return fmt.Sprintf("healthy for %d s; %s", answer.GetUptimeSeconds(), strings.Join(parts, ", ")), nil
}

// standardHealth asks what Kubernetes and load balancers ask. A service serves when its workers are there.
func standardHealth(ctx context.Context, s *system) (string, error) {
	client := healthpb.NewHealthClient(s.conn)
	var states []string
	for _, one := range []struct{ called, service, worker string }{
		{"the bridge", "", ""},
		{"AIAgentService", agent.AIAgentService_ServiceDesc.ServiceName, "chat"},
		{"RAGService", rag.RAGService_ServiceDesc.ServiceName, "rag"},
		{"ToolService", tool.ToolService_ServiceDesc.ServiceName, "tool"},
	} {
		want := healthpb.HealthCheckResponse_SERVING
		if one.worker != "" {
			there, err := runs(ctx, s, one.worker)
			if err != nil {
				return "", err
			}
			if !there {
				want = healthpb.HealthCheckResponse_NOT_SERVING
			}
		}
		if err := reports(ctx, client, one.service, want); err != nil {
			return "", err
		}
		states = append(states, fmt.Sprintf("%s: %s", one.called, want))
	}
	_, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: "no.such.Service"})
	if status.Code(err) != codes.NotFound {
		return "", fmt.Errorf("a service that does not exist is %s instead of NotFound", status.Code(err))
	}
	return strings.Join(states, ", "), nil
}

// reports waits for a state of a service: HealthCheck asks the workers now, this is a view that is up to a second old.
func reports(ctx context.Context, client healthpb.HealthClient, service string, want healthpb.HealthCheckResponse_ServingStatus) error {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		answer, err := client.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			return fmt.Errorf("%q: %w", service, err)
		}
		if answer.GetStatus() == want {
			return nil
		}
		if time.Since(began) > time.Second {
			return fmt.Errorf("%q is %s instead of %s", service, answer.GetStatus(), want)
		}
	}
}

// reflection lists the services, for tools like grpcurl. The bridge speaks v1alpha, which such tools fall back to.
func reflection(ctx context.Context, s *system) (string, error) {
	call, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return "", err
	}
	list := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := call.Send(list); err != nil {
		return "", err
	}
	answer, err := call.Recv()
	if err != nil {
		return "", err
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	for _, name := range []string{
		agent.AIAgentService_ServiceDesc.ServiceName,
		rag.RAGService_ServiceDesc.ServiceName,
		tool.ToolService_ServiceDesc.ServiceName,
		healthpb.Health_ServiceDesc.ServiceName,
	} {
		if !slices.Contains(names, name) {
			return "", fmt.Errorf("%s is not in %v", name, names)
		}
	}
	return fmt.Sprintf("%d services, those of the contract among them", len(names)), nil
}

// runs asks whether a worker of a kind is there.
func runs(ctx context.Context, s *system, kind string) (bool, error) {
	answer, err := s.agent.HealthCheck(ctx, &agent.HealthRequest{})
	if err != nil {
		return false, err
	}
	state := answer.GetDetails()["worker."+kind]
	return state != "" && state != "none running", nil
}
