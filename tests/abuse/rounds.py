"""The rounds: forged tokens, another tenant's ids, closed projects, ids that are made to break out."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from qingyu_ai import routes
from qingyu_ai.contract import ai_agent_pb2 as ai
from qingyu_ai.contract import control_pb2 as control
from qingyu_ai.contract import rag_pb2 as rag
from qingyu_ai.contract import tool_pb2 as tool

from .calling import Attempt, all_answers
from .fields import text_fields, with_text
from .forgeries import Metadata, forged
from .report import Round
from .requests import good_requests
from .rig import AGENT_ID, ATTACKER, CHAT_ID, DOCUMENT, IDS, PROJECT, TOOL, VICTIM, Rig

REFUSED = frozenset(("UNAUTHENTICATED",))
ORDINARY = frozenset(
    ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "ALREADY_EXISTS", "DATA_LOSS", "CANCELLED")
)
"""How a call may end whose ids are another's, or nobody's. CANCELLED: the attacker cancels calls of its own, too."""

DENIED = frozenset(("PERMISSION_DENIED",))
IN_A_BATCH = frozenset(("OK",))
"""A batch counts what failed."""

HEADERS = ("x-request-id", "x-resume-from", "x-follow", "x-linger-ms", "traceparent", "x-user-id", "x-project-id")

STREAMS = (routes.CHAT_STREAM, routes.EXECUTE_AGENT_STREAM)

RoundOf = Callable[[Rig, int], Awaitable[Round]]
"""Makes one attempt of so many of a round."""


async def forged_tokens(rig: Rig, every: int = 1) -> Round:
    """Each forgery on each row, and what it names is the victim's."""
    found = Round("Forged tokens")
    attempts = [
        Attempt(route, request, (*metadata, ("x-request-id", CHAT_ID)), name, REFUSED)
        for route, request in good_requests(VICTIM).items()
        for name, metadata in forged(VICTIM).items()
    ]
    return await _made(rig, found, attempts[::every], {**rig.canaries, "list of tools": TOOL})


async def anothers_ids(rig: Rig, every: int = 1) -> Round:
    """Each id of the victim in each field of each request, and in each header, under the attacker's own good token."""
    found, own = Round("Another tenant's ids"), rig.as_user(ATTACKER)
    # In this order: the attacker's own calls are called the same, and are found from then on.
    await _made(rig, found, _read_on(rig, own), rig.canaries)
    await _made(rig, found, _in_words(own), rig.canaries)
    attempts = [one for row, request in good_requests(ATTACKER).items() for one in _in_fields(row, request, own, IDS)]
    return await _made(rig, found, attempts[::every], rig.canaries)


def _in_fields(
    route: routes.Route[Any, Any], request: Any, own: Metadata, texts: dict[str, str], denied: str = VICTIM
) -> Iterator[Attempt]:
    for path, put in text_fields(request):
        for name, text in texts.items():
            # `user_id` of a document's metadata or of a chat's context is the caller's own text.
            names_user = path in ("user_id", "metadata.user_id") and text == denied
            expected = DENIED if names_user and not isinstance(route, routes.JobStream) else ORDINARY
            yield Attempt(route, with_text(request, put, text), own, f"{name} in {path}", expected)
    for header in HEADERS:
        for name, text in texts.items():
            if text.isascii() and text.isprintable() and text.strip() == text:
                yield Attempt(route, request, (*own, (header, text)), f"{name} in {header}", ORDINARY)


def _read_on(rig: Rig, own: Metadata) -> Iterator[Attempt]:
    """The victim's calls by name, to be read on, with and without the victim's user: as if they had never been."""
    ways = ((("x-follow", "true"), "NOT_FOUND"), (("x-resume-from", "3"), "DATA_LOSS"))
    for route, request, name in ((STREAMS[0], rig.chat, CHAT_ID), (STREAMS[1], rig.task, AGENT_ID)):
        for user in (VICTIM, ATTACKER, ""):
            asked: Any = type(request)()
            asked.CopyFrom(good_requests(ATTACKER)[route])
            asked.metadata.user_id = user
            if isinstance(asked, ai.AgentRequest):
                asked.user_id = user
            for more, code in ways:
                metadata = (*own, ("x-request-id", name), more)
                expected = DENIED if user == VICTIM else frozenset((code,))
                yield Attempt(route, asked, metadata, f"{name} as {user or 'nobody'}, {more[0]}", expected)


def _in_words(own: Metadata) -> Iterator[Attempt]:
    """What somebody does who has read the documents: the victim's things by name, with and without the victim's user."""
    for row, message in ((routes.CANCEL, control.CancelRequest), (routes.DESCRIBE, control.DescribeRequest)):
        for method, name in (("ChatStream", CHAT_ID), ("ExecuteAgentStream", AGENT_ID)):
            asked = message(method=method, request_id=name)
            yield Attempt(row, asked, own, f"{name} of {method}", frozenset(("NOT_FOUND", "OK")))
            asked = message(method=method, request_id=name)
            asked.metadata.user_id = VICTIM
            yield Attempt(row, asked, own, f"{name} of {method} as the victim", DENIED)
    for user, expected in ((VICTIM, DENIED), ("", frozenset(("OK",)))):
        search = rag.SearchRequest(query="灯 师父", user_id=user, project_id=PROJECT)
        yield Attempt(routes.SEARCH, search, own, f"a search as {user or 'nobody'}", expected)
        deletion = rag.DeleteRequest(document_id=DOCUMENT, user_id=user)
        yield Attempt(routes.DELETE_DOCUMENT, deletion, own, f"a deletion as {user or 'nobody'}", expected)
        parameters = json.dumps({"query": "灯 师父"})
        called = tool.ToolRequest(tool_name="search_knowledge", parameters=parameters, user_id=user, project_id=PROJECT)
        yield Attempt(routes.CALL_TOOL, called, own, f"a tool that searches as {user or 'nobody'}", expected)


async def closed_projects(rig: Rig, every: int = 1) -> Round:
    """A token of the victim itself that opens another project only: a collaborator's. All attempts are made: they are few."""
    found, own = Round("Closed projects"), rig.as_user(VICTIM, projects=["open-project"])
    attempts = []
    for project in ("", PROJECT, "open-project"):
        denied = DENIED if project == PROJECT else frozenset(("OK",))
        options = rag.SearchOptions(enable_hybrid=True)
        search = rag.SearchRequest(query="灯 师父", user_id=VICTIM, project_id=project, options=options, top_k=50)
        attempts.append(Attempt(routes.SEARCH, search, own, f"a search in {project!r}", denied))
        parameters = json.dumps({"query": "灯 师父"})
        called = tool.ToolRequest(tool_name="search_knowledge", parameters=parameters, project_id=project)
        attempts.append(Attempt(routes.CALL_TOOL, called, own, f"a tool that searches in {project!r}", denied))
        task = ai.AgentRequest(
            agent_type="creative", task="查一查灯 师父", tools=["search_knowledge"], project_id=project, user_id=VICTIM
        )
        attempts.append(Attempt(routes.EXECUTE_AGENT, task, own, f"an agent that searches in {project!r}", denied))
        index = rag.IndexRequest(document_id=DOCUMENT, content="x", project_id=project, user_id=VICTIM)
        attempts.append(Attempt(routes.INDEX_DOCUMENT, index, own, f"its document taken into {project!r}", DENIED))
        attempts.append(Attempt(routes.BATCH_INDEX, index, own, f"the same in a batch into {project!r}", IN_A_BATCH))
    deletion = rag.DeleteRequest(document_id=DOCUMENT, user_id=VICTIM)
    attempts.append(Attempt(routes.DELETE_DOCUMENT, deletion, own, "its deletion", frozenset(("OK",))))
    return await _made(rig, found, attempts, {"document": rig.canaries["document"]})


LONG = "长" * 5000
BREAKING = {
    "a dot": ".",
    "a star": "*",
    "a tail": ">",
    "all calls": "ai.job.>",
    "a bucket": "$KV.ai_sessions.>",
    "two dots": "..",
    "a path": "../../etc/passwd",
    "a blank": " ",
    "blanks around": " x ",
    "a tab": "a\tb",
    "CR LF": "x\r\nQai-User: victim\r\n\r\n",
    "a line of log": 'x\n{"event": "forged", "level": "error"}',
    "NUL": "a\x00b",
    "an escape": "\x1b[2J\x1b[31mred",
    "a separator": "a\u2028b",
    "a turn": "\u202egnp.exe",
    "SQL": "'; DROP TABLE rag.documents; --",
    "a format": "%s%n{0.__class__}${jndi:ldap://127.0.0.1:1/a}",
    "JSON": '"}], "user": "victim',
    "a percent": "%2e%0d%0aQai-User:%20victim",
    "5,000 characters": LONG,
    "5,000 letters": "a" * 5000,
}
BEYOND = ORDINARY | {"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"}


async def breaking_out(rig: Rig, every: int = 1) -> Round:
    """Each text that is made to break out in each field of each request, and in each header that can carry it."""
    found, own = Round("Ids that break out"), rig.as_user(ATTACKER)
    attempts = []
    for route, request in good_requests(ATTACKER).items():
        for one in _in_fields(route, request, own, BREAKING, denied="nobody"):
            attempts.append(Attempt(one.route, one.request, one.metadata, one.what, BEYOND))
    await _made(rig, found, attempts[::every], rig.canaries)
    _look_at_logs(rig, found)
    return found


LEVELS = ("debug", "info", "warning", "error")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _look_at_logs(rig: Rig, found: Round) -> None:
    """Every line is one that we wrote, and none holds a token."""
    for line in rig.log_lines():
        try:
            said = json.loads(line)
        except ValueError:
            found.wrong.append(f"a line of the log is none of ours: {line[:200]}")
            continue
        found.check(said.get("event") != "forged", f"a line of the log was forged: {line[:200]}")
        found.check(said.get("level") in LEVELS, f"a line of the log has no level: {line[:200]}")
        found.check("exception" not in said, f"a defect was met: {line[:600]}")
        found.check(not _CONTROL.search(line), f"a line of the log has control characters: {line[:200]!r}")
        found.check("eyJ" not in line, f"a line of the log holds a token: {line[:200]}")


async def _made(rig: Rig, found: Round, attempts: Iterable[Attempt], canaries: dict[str, str]) -> Round:
    for attempt, answer in await all_answers(rig.channel, attempts):
        found.judge(attempt, answer, canaries)
        if isinstance(attempt.route, routes.JobStream) and attempt.expected is IN_A_BATCH:
            found.check(
                not answer.messages or not answer.messages[0].success_count,  # type: ignore[attr-defined]
                f"{attempt.route.method}, {attempt.what}: it was stored",
            )
    found.wrong += await rig.all_there()
    for process in (*rig.system.bridges, *rig.system.workers):
        found.check(process.alive, f"{process.name} has ended: {process.tail}")
    return found
