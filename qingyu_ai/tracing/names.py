"""Attributes of spans. This module is their reference manual.

Those without `qingyu.` are OpenTelemetry's semantic conventions; a test compares them with its package. None holds a text of a
user, of a model or of a tool, or says who the user is.
"""

from __future__ import annotations

RPC_SYSTEM = "rpc.system.name"
"""`grpc` at the edge, `nats` between processes."""

RPC_METHOD = "rpc.method"
"""`package.Service/Method`. It is the span's name, too."""

RPC_STATUS = "rpc.response.status_code"
"""The canonical code in words: `OK`, `UNAVAILABLE`."""

HTTP_METHOD = "http.request.method"
"""`GET`, `POST`, …; `_OTHER` for what is no method that we know."""

HTTP_ROUTE = "http.route"
"""The path with its parameters in braces. `url.path` is left out: it would show ids of documents and of calls."""

HTTP_STATUS = "http.response.status_code"
"""101 for a WebSocket."""

MESSAGING_SYSTEM = "messaging.system"
"""`nats`"""

OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
"""The subject that the job was stored under."""

CONSUMER_GROUP = "messaging.consumer.group.name"
"""The consumer of the queue, which all workers of a kind share."""

MESSAGE_ID = "messaging.message.id"
"""The job's sequence number in its queue."""

GEN_AI_OPERATION = "gen_ai.operation.name"
"""`chat`, `embeddings`, `rerank` (which the conventions have not) or `execute_tool`."""

GEN_AI_PROVIDER = "gen_ai.provider.name"
"""`openai`: whose protocol is spoken, which is all that is known of the server."""

REQUEST_MODEL = "gen_ai.request.model"
"""The server's name for the model."""

RESPONSE_MODEL = "gen_ai.response.model"
"""The alias that the answer is labelled with."""

INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
FINISH_REASONS = "gen_ai.response.finish_reasons"
TOOL_NAME = "gen_ai.tool.name"
TOOL_CALL_ID = "gen_ai.tool.call.id"

SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"

DB_SYSTEM = "db.system.name"
DB_OPERATION = "db.operation.name"
DB_SUMMARY = "db.query.summary"

ERROR_TYPE = "error.type"
"""The error's reason (docs: `ErrorInfo.reason`), `cancelled` or `internal`."""

CALL = "qingyu.call.id"
"""The call id, as in log lines and in the record."""

EPOCH = "qingyu.epoch"
"""Of the claim that a worker's span is of. A later one is a take-over."""

DELIVERY = "qingyu.delivery"
"""Which delivery of the job the worker was given, from 1."""

WORKER = "qingyu.worker"
"""The worker's token."""

GIVEN_BACK = "qingyu.given_back"
"""Whether the worker put the job back, so that another one goes on."""

ESTIMATED = "qingyu.usage.estimated"
"""Whether tokens were estimated, because the server did not count."""
