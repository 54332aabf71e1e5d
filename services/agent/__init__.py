"""The agent worker: ExecuteAgent and ExecuteAgentStream, agents that write and call tools (docs/agents.md)."""
