"""Who makes vectors: a model at a server, or the lexical ones that are always there; and what their cosines are worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Protocol

import structlog

from qingyu_ai.bus.deadline import Deadline
from qingyu_ai.bus.errors import Code, Fault
from qingyu_ai.settings import Embedding
from services.llm import vectors as llm

from .beside import Beside
from .lexical import LexicalEmbedding
from .ranking import MODEL_WEIGHT
from .stored import Model, Vector

log = structlog.get_logger(__name__)

UNRELATED = (
    "雨停以后，渡口的木门开着，没有人。",
    "请在三个工作日内提交报销单和发票。",
    "他一剑劈开了石门，尘土落了满身。",
    "这道菜要先焯水，再用小火煮半个钟头。",
    "股东大会将于下月十五日上午召开。",
    "孩子把纸船放进水沟，跟着它跑了很远。",
    "她合上账本，说今年的盐税又涨了。",
    "飞船脱离轨道，舷窗外一片漆黑。",
)
"""Sentences that have nothing in common: their mean cosine is where a model's similarity begins (`ranking.similarity`)."""


class EmbeddingMisfit(Fault):
    """The server's vectors are not those that the settings announce. It is an operator's to mend, and the log says what."""

    def __init__(self) -> None:
        super().__init__(
            Code.UNAVAILABLE,
            "EMBEDDING_MISFIT",
            "The embedding model is not the one that this deployment expects; try again once it has been put right",
            "向量模型与本部署的配置不符，请待管理员修正后重试",
            retry_seconds=60.0,
        )


class Vectors(Protocol):
    """Whoever makes vectors."""

    @property
    def model(self) -> Model:
        """Which: it is stored with them."""

    @property
    def weight(self) -> float:
        """What their ranking counts beside that of full text, which counts 1; 0: it says nothing that words do not."""

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> Sequence[Vector]:
        """Embed texts, in their order: float[len(texts), model.dimension]."""

    async def background(self, deadline: Deadline) -> float:
        """The mean cosine of texts that have nothing in common."""


class LexicalVectors:
    """Of spelling, not of meaning: a hybrid search has its words for that, and does without them (docs/retrieval.md)."""

    weight = 0.0

    def __init__(self, dimension: int, beside: Beside | None = None) -> None:
        self._made = LexicalEmbedding(dimension)
        self._beside = beside or Beside()
        self.model = Model(self._made.name, dimension)

    def __repr__(self) -> str:
        return f"<LexicalVectors {self.model.key}>"

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> Sequence[Vector]:
        """Embed texts, in their order: float[len(texts), dimension]."""
        if len(texts) == 1 and len(texts[0]) < 1000:
            return self._made.embed(texts)  # a query: a thread costs more
        return await self._beside.do(self._made.embed, texts)

    async def background(self, deadline: Deadline) -> float:
        """See `ModelVectors.background`. 1: such a cosine says nothing that words do not."""
        return 1.0


class ModelVectors:
    """Of a model at a server.

    Args:
        server: who is asked.
        settings: which model, and how long its vectors are.
    """

    weight = MODEL_WEIGHT

    def __init__(self, embedder: llm.Embedder, settings: Embedding) -> None:
        self._embedder = embedder
        self.model = Model(settings.model, settings.dimension)
        self._background: float | None = None

    def __repr__(self) -> str:
        return f"<ModelVectors {self.model.key}>"

    async def embed(self, texts: Sequence[str], deadline: Deadline) -> Sequence[Vector]:
        """Embed texts, in their order: float[len(texts), dimension].

        Raises:
            UpstreamFault: the server cannot, also after retries.
            EmbeddingMisfit: its vectors have another length than the settings say.
            Expired: the deadline passed.
        """
        vectors = await self._embedder.embed(texts, deadline)
        wrong = next((len(vector) for vector in vectors if len(vector) != self.model.dimension), None)
        if wrong is not None:
            log.error(
                "embedding_misfit", model=self.model.name, numbers=wrong, setting="QINGYU_RAG__EMBEDDING__DIMENSION"
            )
            raise EmbeddingMisfit
        return vectors

    async def background(self, deadline: Deadline) -> float:
        """The mean cosine of texts that have nothing in common: asked for once.

        Raises:
            As `embed`.
        """
        if self._background is None:
            vectors = await self.embed(UNRELATED, deadline)
            self._background = fmean(cosine(a, b) for a, b in combinations(vectors, 2))
            log.info("embedding_background", model=self.model.name, cosine=round(self._background, 3))
        return self._background


def cosine(a: Vector, b: Vector) -> float:
    """Of two vectors; 0 if one is all zeros."""
    squares = sum(x * x for x in a) * sum(x * x for x in b)
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / squares**0.5) if squares else 0.0
