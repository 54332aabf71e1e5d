"""What each user of NATS may say and hear, written by hand from docs/bus-protocol.md, and not from the table that it checks.

A row is a subject, and the users who may: B bridge, C chat, A agent, R rag, T tool, M mcp, E events, S setup, O operator. A dot:
nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

LETTERS = {
    "B": "bridge",
    "C": "chat",
    "A": "agent",
    "R": "rag",
    "T": "tool",
    "M": "mcp",
    "E": "events",
    "S": "setup",
    "O": "operator",
}

CALL = "0123456789abcdef0123456789abcdef"
BRIDGE = "aaaaaaaaaaaa"
WORKER = "cccccccccccc"

SAYS = f"""
ai.job.chat.complete                                       B O
ai.job.chat.stream                                         B O
ai.job.agent.execute.plot                                  B O
ai.job.agent.stream.plot                                   B O
ai.job.rag.index                                           B O
ai.job.rag.delete                                          B O
ai.job.other.thing                                         O
ai.job                                                     .
ai.rpc.rag.search                                          B T
ai.rpc.rag.other                                           .
ai.rpc.tool.list                                           B T
ai.rpc.tool.call.count_words                               B A T M
ai.rpc.tool.info.count_words                               B T
ai.rpc.chat.complete                                       .
ai.stream.chat.{BRIDGE}.{CALL}                             C
ai.stream.agent.{BRIDGE}.{CALL}                            A
ai.stream.rag.{BRIDGE}.{CALL}                              R
ai.stream.tool.{BRIDGE}.{CALL}                             .
ai.cancel.{CALL}                                           B A T M O
ai.credit.{WORKER}                                         B
ai.held.{CALL}                                             B
ai.open.{BRIDGE}                                           B
ai.dead.chat.{CALL}.0                                      C
ai.dead.agent.{CALL}.0                                     A
ai.dead.rag.{CALL}.0                                       R
ai.left.{WORKER}                                           C A R T
ai.events.v1.chat.completed.none                           B C
ai.events.v1.agent.tool_called.none                        B A
ai.events.v1.rag.document_indexed.none                     B R
ai.events.v1.tool.failed.none                              B T
ai.events.v1.other.failed.none                             B
ai.events.v2.chat.completed.none                           .
ai.events.v1.chat.completed                                .
ai.events                                                  .
ai.dead.tool.{CALL}.0                                      .
ai.else                                                    .
else                                                       .
$SRV.PING                                                  B O
$SRV.INFO                                                  O
$SRV.STATS.qingyu-chat                                     O
$KV.ai_calls.{CALL}                                        B C A R O
$KV.ai_sessions.0123456789abcdef                           C
$KV.ai_tools.count_words.{WORKER}                          T
$KV.other.key                                              .
$JS.API.INFO                                               S O
$JS.API.STREAM.NAMES                                       O
$JS.API.STREAM.LIST                                        O
$JS.API.STREAM.INFO.AI_CHAT                                B C S O
$JS.API.STREAM.INFO.AI_JOBS                                B A R S O
$JS.API.STREAM.INFO.AI_LOG                                 B C A R S O
$JS.API.STREAM.INFO.AI_DEAD                                B S O
$JS.API.STREAM.INFO.KV_ai_calls                            B C A R S O
$JS.API.STREAM.INFO.KV_ai_sessions                         B C S O
$JS.API.STREAM.INFO.KV_ai_tools                            B A T M S O
$JS.API.STREAM.INFO.OTHER                                  O
$JS.API.STREAM.CREATE.AI_CHAT                              S O
$JS.API.STREAM.CREATE.AI_JOBS                              S O
$JS.API.STREAM.CREATE.AI_LOG                               S O
$JS.API.STREAM.CREATE.AI_DEAD                              S O
$JS.API.STREAM.CREATE.KV_ai_calls                          S O
$JS.API.STREAM.CREATE.KV_ai_sessions                       S O
$JS.API.STREAM.CREATE.KV_ai_tools                          S O
$JS.API.STREAM.CREATE.OTHER                                O
$JS.API.STREAM.UPDATE.AI_CHAT                              S O
$JS.API.STREAM.UPDATE.AI_JOBS                              S O
$JS.API.STREAM.UPDATE.AI_LOG                               S O
$JS.API.STREAM.UPDATE.AI_DEAD                              S O
$JS.API.STREAM.UPDATE.KV_ai_calls                          S O
$JS.API.STREAM.UPDATE.KV_ai_sessions                       S O
$JS.API.STREAM.UPDATE.KV_ai_tools                          S O
$JS.API.STREAM.UPDATE.OTHER                                O
$JS.API.STREAM.DELETE.AI_CHAT                              O
$JS.API.STREAM.DELETE.AI_LOG                               O
$JS.API.STREAM.PURGE.AI_LOG                                O
$JS.API.STREAM.PURGE.KV_ai_calls                           O
$JS.API.STREAM.MSG.DELETE.AI_JOBS                          O
$JS.API.STREAM.SNAPSHOT.AI_JOBS                            O
$JS.API.STREAM.RESTORE.AI_JOBS                             O
$JS.API.STREAM.LEADER.STEPDOWN.AI_LOG                      O
$JS.API.STREAM.MSG.GET.KV_ai_calls                         B C A R O
$JS.API.STREAM.MSG.GET.KV_ai_sessions                      C O
$JS.API.STREAM.MSG.GET.KV_ai_tools                         O
$JS.API.STREAM.MSG.GET.AI_LOG                              O
$JS.API.STREAM.MSG.GET.AI_JOBS                             O
$JS.API.STREAM.MSG.GET.AI_CHAT                             O
$JS.API.STREAM.MSG.GET.AI_DEAD                             O
$JS.API.DIRECT.GET.AI_LOG                                  B C A R O
$JS.API.DIRECT.GET.AI_LOG.ai.stream.chat.{BRIDGE}.{CALL}   O
$JS.API.DIRECT.GET.KV_ai_calls                             B C A R O
$JS.API.DIRECT.GET.KV_ai_calls.$KV.ai_calls.{CALL}         B C A R O
$JS.API.DIRECT.GET.KV_ai_sessions                          O
$JS.API.DIRECT.GET.KV_ai_sessions.$KV.ai_sessions.01234567 O
$JS.API.DIRECT.GET.KV_ai_tools                             T O
$JS.API.DIRECT.GET.AI_JOBS                                 O
$JS.API.DIRECT.GET.AI_CHAT                                 O
$JS.API.DIRECT.GET.AI_DEAD                                 O
$JS.API.CONSUMER.CREATE.AI_LOG.one.ai.stream.>             B O
$JS.API.CONSUMER.CREATE.AI_LOG.one.ai.stream.*.{BRIDGE}.>  B O
$JS.API.CONSUMER.CREATE.AI_LOG.one.ai.stream.*.*.{CALL}    B O
$JS.API.CONSUMER.CREATE.AI_LOG.one                         O
$JS.API.CONSUMER.CREATE.AI_LOG                             O
$JS.API.CONSUMER.CREATE.AI_CHAT.one.ai.job.chat.>          O
$JS.API.CONSUMER.CREATE.AI_JOBS.one.ai.job.rag.>           O
$JS.API.CONSUMER.CREATE.KV_ai_calls.one.$KV.ai_calls.*     O
$JS.API.CONSUMER.CREATE.KV_ai_sessions.one.$KV.ai_sessions.* O
$JS.API.CONSUMER.CREATE.KV_ai_tools.one.$KV.ai_tools.*.*   A T M O
$JS.API.CONSUMER.CREATE.KV_ai_tools.one                    O
$JS.API.CONSUMER.DELETE.AI_LOG.one                         B O
$JS.API.CONSUMER.DELETE.KV_ai_tools.one                    A T M O
$JS.API.CONSUMER.DELETE.AI_CHAT.chat                       O
$JS.API.CONSUMER.DELETE.AI_JOBS.agent                      O
$JS.API.CONSUMER.DURABLE.CREATE.AI_CHAT.chat               S O
$JS.API.CONSUMER.DURABLE.CREATE.AI_JOBS.agent              S O
$JS.API.CONSUMER.DURABLE.CREATE.AI_JOBS.rag                S O
$JS.API.CONSUMER.DURABLE.CREATE.AI_JOBS.other              O
$JS.API.CONSUMER.MSG.NEXT.AI_CHAT.chat                     C O
$JS.API.CONSUMER.MSG.NEXT.AI_JOBS.agent                    A O
$JS.API.CONSUMER.MSG.NEXT.AI_JOBS.rag                      R O
$JS.API.CONSUMER.MSG.NEXT.AI_JOBS.other                    O
$JS.ACK.AI_CHAT.chat.1.1.1.1.0                             C O
$JS.ACK.AI_JOBS.agent.1.1.1.1.0                            A O
$JS.ACK.AI_JOBS.rag.1.1.1.1.0                              R O
$JS.ACK.AI_LOG.one.1.1.1.1.0                               O
$JS.FC.AI_LOG.one.abcd                                     B O
$JS.FC.KV_ai_tools.one.abcd                                A T M O
$JS.FC.AI_CHAT.chat.abcd                                   O
$JS.SNAPSHOT.ACK.AI_JOBS.abcd                              O
$JS.API.STREAM.INFO.AI_EVENTS                              B E S O
$JS.API.STREAM.CREATE.AI_EVENTS                            S O
$JS.API.STREAM.UPDATE.AI_EVENTS                            S O
$JS.API.STREAM.PURGE.AI_EVENTS                             O
$JS.API.STREAM.MSG.GET.AI_EVENTS                           O
$JS.API.DIRECT.GET.AI_EVENTS                               O
$JS.API.CONSUMER.CREATE.AI_EVENTS.billing                  E O
$JS.API.CONSUMER.CREATE.AI_EVENTS.billing.ai.events.>      O
$JS.API.CONSUMER.INFO.AI_EVENTS.billing                    E O
$JS.API.CONSUMER.DELETE.AI_EVENTS.billing                  E O
$JS.API.CONSUMER.MSG.NEXT.AI_EVENTS.billing                E O
$JS.ACK.AI_EVENTS.billing.1.1.1.1.0                        E O
$JS.API.CONSUMER.INFO.AI_CHAT.chat                         B O
$JS.API.CONSUMER.INFO.AI_JOBS.agent                        B O
$JS.API.CONSUMER.INFO.AI_JOBS.rag                          B O
$JS.API.CONSUMER.INFO.AI_LOG.one                           O
$JS.API.CONSUMER.LIST.AI_JOBS                              O
$JS.API.CONSUMER.LIST.AI_EVENTS                            O
_INBOX.events.0123456789abcdef.1                           E
$SYS.REQ.SERVER.PING                                       .
_INBOX.bridge.0123456789abcdef.1                           B
_INBOX.chat.0123456789abcdef.1                             C
_INBOX.agent.0123456789abcdef.1                            A
_INBOX.rag.0123456789abcdef.1                              R
_INBOX.tool.0123456789abcdef.1                             T
_INBOX.mcp.0123456789abcdef.1                              M
_INBOX.setup.0123456789abcdef.1                            S
_INBOX.operator.0123456789abcdef.1                         O
_INBOX.0123456789abcdef                                    .
"""

HEARS = f"""
>                                          .
*                                          .
ai.>                                       .
ai.job.>                                   .
ai.job.chat.*                              .
ai.stream.>                                .
ai.stream.*.{BRIDGE}.>                     .
ai.rpc.>                                   .
ai.rpc.rag.search                          .
ai.rpc.rag.search rag                      R
ai.rpc.rag.search other                    .
ai.rpc.tool.list tool                      T
ai.rpc.tool.call.count_words tool          T
ai.rpc.tool.call.* tool                    T
ai.rpc.tool.call.*                         .
ai.rpc.tool.info.* tool                    T
ai.rpc.tool.> tool                         .
ai.cancel.*                                C A R T
ai.credit.{WORKER}                         C A R T
ai.held.*                                  B
ai.open.*                                  B
ai.left.*                                  B
ai.events.>                                .
ai.events.v1.>                             .
ai.events.v1.*.*.*                         .
ai.dead.>                                  .
$SRV.PING                                  C A R T O
$SRV.INFO                                  C A R T O
$SRV.STATS                                 C A R T O
$SRV.PING.qingyu-chat                      C O
$SRV.PING.qingyu-chat.{WORKER}             C O
$SRV.PING.qingyu-agent                     A O
$SRV.PING.qingyu-agent.{WORKER}            A O
$SRV.PING.qingyu-rag                       R O
$SRV.PING.qingyu-rag.{WORKER}              R O
$SRV.PING.qingyu-tool                      T O
$SRV.PING.qingyu-tool.{WORKER}             T O
$SRV.INFO.qingyu-chat                      C O
$SRV.INFO.qingyu-chat.{WORKER}             C O
$SRV.INFO.qingyu-agent                     A O
$SRV.INFO.qingyu-agent.{WORKER}            A O
$SRV.INFO.qingyu-rag                       R O
$SRV.INFO.qingyu-rag.{WORKER}              R O
$SRV.INFO.qingyu-tool                      T O
$SRV.INFO.qingyu-tool.{WORKER}             T O
$SRV.STATS.qingyu-chat                     C O
$SRV.STATS.qingyu-chat.{WORKER}            C O
$SRV.STATS.qingyu-agent                    A O
$SRV.STATS.qingyu-agent.{WORKER}           A O
$SRV.STATS.qingyu-rag                      R O
$SRV.STATS.qingyu-rag.{WORKER}             R O
$SRV.STATS.qingyu-tool                     T O
$SRV.STATS.qingyu-tool.{WORKER}            T O
$SRV.PING.qingyu-other                     O
$SRV.>                                     O
$KV.>                                      .
$KV.ai_calls.>                             .
$KV.ai_sessions.>                          .
$KV.ai_tools.*.*                           .
$JS.API.>                                  .
$JS.ACK.>                                  .
$JS.EVENT.ADVISORY.>                       O
$SYS.>                                     .
_INBOX.>                                   .
_INBOX.*                                   .
_INBOX.*.>                                 .
_INBOX.bridge.>                            B
_INBOX.bridge.0123456789abcdef.*           B
_INBOX.chat.>                              C
_INBOX.agent.>                             A
_INBOX.rag.>                               R
_INBOX.tool.>                              T
_INBOX.mcp.>                               M
_INBOX.events.>                            E
_INBOX.setup.>                             S
_INBOX.operator.>                          O
"""


def rows(table: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Subjects, with their queue groups, and the users who may."""
    for line in table.strip().splitlines():
        *subject, users = line.split("  ") if "  " in line else line.split(" ", 1)
        allowed = users.split() if users.strip() != "." else []
        yield " ".join(subject).strip(), frozenset(LETTERS[letter] for letter in allowed)
