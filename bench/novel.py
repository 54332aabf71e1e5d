"""What the scripted upstream says in benches: a passage in deltas of three characters, no two neighbours alike.

(The LiteLLM proxy ends a stream that says the same again and again.)
"""

from __future__ import annotations

from itertools import cycle, islice

from tests.upstream.replies import ending
from tests.upstream.script import Counts, Reply, Role, Text

PASSAGE = "雨是后半夜停的。沈砚推开渡口的木门，河面上浮着一层薄雾，像谁把旧信纸撕碎了撒在水上。"
SIZE = 3
"""Characters of a delta."""

PIECES = [PASSAGE[i : i + SIZE] for i in range(0, len(PASSAGE) - len(PASSAGE) % SIZE, SIZE)]


def novel(deltas: int, pace: float = 0.0) -> Reply:
    """A stream, one write for each delta.

    Args:
        deltas: how many.
        pace: so many each second; 0: at once.
    """
    said = (Text(piece) for piece in islice(cycle(PIECES), deltas))
    return Reply((Role(), *said, *ending("stop", Counts(prompt=8, completion=deltas), "last")), pace=pace)
