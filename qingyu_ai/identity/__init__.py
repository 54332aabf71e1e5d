"""Who calls, proved: tokens of users, verified where callers come in, and tokens of calls, for tools that want proof.

`verifier` is where to begin; `keys` are what it verifies with; `claims` is what it finds. `tool_tokens` stands beside them.
"""
