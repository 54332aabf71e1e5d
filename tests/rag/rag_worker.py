"""`python -m tests.rag.rag_worker`: a retrieval worker as the real one is wired, with the tests' own way of reading texts."""

from __future__ import annotations

import asyncio

from qingyu_ai.process import run
from qingyu_ai.settings import Settings
from services.rag.process import run_worker
from services.rag.service import Parts
from tests.rag.parts import Counts, fuse, highlight, rerank, split
from tests.rag.texts import MODEL, terms


async def main(settings: Settings, stop: asyncio.Event) -> None:
    """Run it."""
    parts = Parts(split, terms, fuse, highlight, rerank)
    await run_worker(settings, stop, parts, {MODEL.key: Counts()}, MODEL)


if __name__ == "__main__":
    run("rag", main)
