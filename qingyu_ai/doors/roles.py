"""The table of users on NATS, one for each kind of process, and what each may say and hear. What is not here is forbidden.

A role's name is its user's, and the first token of its inboxes: `_INBOX.<role>.<process>.…`. Replies are not listed: a role that
`answers` may publish once to the subject that a question names, and checks by itself that whoever asks may
(`qingyu_ai.bus.answering`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

Subjects = tuple[str, ...]


# Calls of JetStream, by what they are good for.


def look(*streams: str) -> Subjects:
    """See how full a stream is, and which one it is."""
    return tuple(f"$JS.API.STREAM.INFO.{stream}" for stream in streams)


def read(stream: str, subject: str = "") -> Subjects:
    """Read single messages of a stream, from any copy: the next ones, and with a `subject` the last one on it."""
    last = (f"$JS.API.DIRECT.GET.{stream}.{subject}",) if subject else ()
    return (f"$JS.API.DIRECT.GET.{stream}", *last)


def read_newest(stream: str) -> Subjects:
    """Read single messages of a stream, from its leader."""
    return (f"$JS.API.STREAM.MSG.GET.{stream}",)


def follow(stream: str, subject: str) -> Subjects:
    """Read a part of a stream in order, by consumers that one makes and takes down, at the server's pace."""
    return (
        *look(stream),
        f"$JS.API.CONSUMER.CREATE.{stream}.*.{subject}",
        f"$JS.API.CONSUMER.DELETE.{stream}.*",
        f"$JS.FC.{stream}.>",
    )


def take(stream: str, consumer: str) -> Subjects:
    """Take jobs from a work queue, hold them, end them."""
    return (*look(stream), f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", f"$JS.ACK.{stream}.{consumer}.>")


def waits(stream: str, consumer: str) -> str:
    """See how many jobs a work queue has, and how many are claimed."""
    return f"$JS.API.CONSUMER.INFO.{stream}.{consumer}"


def make(*streams: str) -> Subjects:
    """Make streams, and bring them up to the settings."""
    return tuple(f"$JS.API.STREAM.{verb}.{stream}" for stream in streams for verb in ("INFO", "CREATE", "UPDATE"))


def make_consumer(stream: str, consumer: str) -> Subjects:
    """Make the consumer of a work queue."""
    return (f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{consumer}",)


# What several roles have in common.

RECORDS = (*read("KV_ai_calls", "$KV.ai_calls.*"), *read_newest("KV_ai_calls"), "$KV.ai_calls.*")
"""Read and write the records of calls."""

TOOLS = follow("KV_ai_tools", "$KV.ai_tools.*.*")
"""See which tools there are."""

PRESENCE = tuple(
    f"$SRV.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".{service}", ".{service}.*")
)
"""Be asked who is there. The verbs are named: who may hear `$SRV.*` may hear `$SRV.>`, which the server takes for one token."""

STREAMS = ("AI_CHAT", "AI_JOBS", "AI_LOG", "AI_DEAD", "AI_EVENTS", "KV_ai_calls", "KV_ai_sessions", "KV_ai_tools")


def says_of_jobs(kind: str) -> Subjects:
    """Every worker that takes jobs: the log of its calls, their records, and dead letters."""
    return (f"ai.stream.{kind}.*.*", *look("AI_LOG", "KV_ai_calls"), *read("AI_LOG"), *RECORDS, f"ai.dead.{kind}.*.*")


def says_as_worker(kind: str) -> Subjects:
    """Every worker: events of its kind, and that it leaves."""
    return (f"ai.events.v1.{kind}.*.*", "ai.left.*")


def hears_as_worker(kind: str) -> Subjects:
    """Every worker: cancels, credit, who is there."""
    return ("ai.cancel.*", "ai.credit.*", *(subject.format(service=f"qingyu-{kind}") for subject in PRESENCE))


@dataclass(frozen=True)
class Role:
    """A user, and what it may do."""

    name: str
    says: Subjects
    """Subjects on which it may publish. With those of its own inboxes."""
    hears: Subjects = ()
    """Subjects to which it may subscribe, `<subject> <queue group>` only in that group. With those of its own inboxes."""
    answers: bool = False
    """Whether it may reply once to each question that it hears."""

    @property
    def inbox(self) -> str:
        """Its inboxes. Nobody else hears them."""
        return f"_INBOX.{self.name}.>"

    @property
    def publish(self) -> Subjects:
        """All that it may publish, each once."""
        return tuple(dict.fromkeys((*self.says, self.inbox)))

    @property
    def subscribe(self) -> Subjects:
        """All that it may subscribe to, each once."""
        return tuple(dict.fromkeys((*self.hears, self.inbox)))


ROLES: tuple[Role, ...] = (
    Role(
        "bridge",
        says=(
            *("ai.job.chat.*", "ai.job.agent.*.*", "ai.job.rag.*"),
            *("ai.rpc.rag.search", "ai.rpc.tool.list", "ai.rpc.tool.call.*", "ai.rpc.tool.info.*"),
            *("ai.cancel.*", "ai.credit.*", "ai.held.*", "ai.open.*", "ai.events.v1.*.*.*", "$SRV.PING"),
            *RECORDS,
            *look(*STREAMS),
            *(waits("AI_CHAT", "chat"), waits("AI_JOBS", "agent"), waits("AI_JOBS", "rag")),
            *read("AI_LOG"),
            *follow("AI_LOG", "ai.stream.>"),
        ),
        hears=("ai.held.*", "ai.open.*", "ai.left.*"),
        answers=True,  # to other bridges: whether it reads a call
    ),
    Role(
        "chat",
        says=(
            *says_as_worker("chat"),
            *says_of_jobs("chat"),
            *take("AI_CHAT", "chat"),
            *look("KV_ai_sessions"),
            *read_newest("KV_ai_sessions"),
            "$KV.ai_sessions.*",
        ),
        hears=hears_as_worker("chat"),
        answers=True,
    ),
    Role(
        "agent",
        says=(
            *says_as_worker("agent"),
            *says_of_jobs("agent"),
            *take("AI_JOBS", "agent"),
            *(*TOOLS, "ai.rpc.tool.call.*", "ai.cancel.*"),
        ),
        hears=hears_as_worker("agent"),
        answers=True,
    ),
    Role(
        "rag",
        says=(*says_as_worker("rag"), *says_of_jobs("rag"), *take("AI_JOBS", "rag")),
        hears=(*hears_as_worker("rag"), "ai.rpc.rag.search rag"),
        answers=True,
    ),
    Role(
        "tool",
        says=(
            *says_as_worker("tool"),
            *(*TOOLS, *read("KV_ai_tools"), "$KV.ai_tools.*.*", "ai.cancel.*"),
            # A tool may ask whatever can be asked again (`services.tool.own.RPCS`).
            *("ai.rpc.rag.search", "ai.rpc.tool.list", "ai.rpc.tool.call.*", "ai.rpc.tool.info.*"),
        ),
        hears=(
            *hears_as_worker("tool"),
            *("ai.rpc.tool.list tool", "ai.rpc.tool.call.* tool", "ai.rpc.tool.info.* tool"),
        ),
        answers=True,
    ),
    # Shows our tools to MCP clients: `python -m services.tool.mcp`.
    Role("mcp", says=(*TOOLS, "ai.rpc.tool.call.*", "ai.cancel.*")),
    # Other services, which read what happens: docs/events.md. A team may get a user of its own, with the same lines.
    Role(
        "events",
        says=(
            *look("AI_EVENTS"),
            *(f"$JS.API.CONSUMER.{verb}.AI_EVENTS.*" for verb in ("CREATE", "INFO", "DELETE", "MSG.NEXT")),
            "$JS.ACK.AI_EVENTS.>",
        ),
    ),
    # Makes what the others use: `python -m qingyu_ai.streams`, and `up` to see whether JetStream answers.
    Role(
        "setup",
        says=(
            "$JS.API.INFO",
            *make(*STREAMS),
            *make_consumer("AI_CHAT", "chat"),
            *make_consumer("AI_JOBS", "agent"),
            *make_consumer("AI_JOBS", "rag"),
        ),
    ),
    # People on call, and what they run: dead letters, the erasure of a user, backups.
    Role(
        "operator",
        says=(
            *("$JS.API.>", "$JS.ACK.>", "$JS.FC.>", "$JS.SNAPSHOT.>", "$SRV.>"),
            *("ai.job.>", "$KV.ai_calls.*", "ai.cancel.*"),
        ),
        hears=("$JS.EVENT.ADVISORY.>", "$SRV.>"),
    ),
)
"""In the order of a call."""

NAMES = tuple(role.name for role in ROLES)
BY_NAME = {role.name: role for role in ROLES}

EVERY = tuple(dict.fromkeys(chain.from_iterable((*role.publish, *role.subscribe) for role in ROLES)))
"""Every subject that is granted to anybody."""
