"""services/rag/lexical.py: vectors of spelling."""

from __future__ import annotations

import subprocess
import sys

import pytest

from services.rag.lexical import LexicalEmbedding

TEXT = "沈砚把那枚铜钱压在灯座底下。"

EXPECTED = [-0.5934, -0.1187, -0.7121, 0.0, -0.2374, 0.0, -0.2374, 0.1187]
"""The vector of TEXT in eight dimensions: what is stored under this name."""


def cosine(one: str, other: str) -> float:
    a, b = LexicalEmbedding(256).embed([one, other])
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_have_the_dimension_and_length_one() -> None:
    for dimension in (1, 64, 1024):
        (vector,) = LexicalEmbedding(dimension).embed([TEXT])
        assert len(vector) == dimension
        assert sum(x * x for x in vector) == pytest.approx(1)


def test_texts_that_share_wording_are_nearer_than_texts_that_do_not() -> None:
    assert cosine(TEXT, "铜钱压在灯座下") > cosine(TEXT, "雨后的雾很薄") + 0.3
    assert cosine(TEXT, TEXT) == pytest.approx(1)


def test_its_name_says_that_it_is_lexical_and_differs_by_dimension() -> None:
    assert LexicalEmbedding(512).name == "lexical-hash-v1-512"
    assert "lexical" in repr(LexicalEmbedding())


def test_a_text_without_letters_is_the_zero_vector_and_nothing_fails() -> None:
    assert LexicalEmbedding(8).embed(["", "。！\n"]) == [[0.0] * 8] * 2
    assert LexicalEmbedding(8).embed([]) == []
    with pytest.raises(ValueError, match="0 dimensions"):
        LexicalEmbedding(0)


def test_the_same_text_has_the_same_vector_in_another_process_and_in_every_release() -> None:
    (vector,) = LexicalEmbedding(8).embed([TEXT])
    assert [round(x, 4) for x in vector] == EXPECTED
    program = f"from services.rag.lexical import LexicalEmbedding; print(LexicalEmbedding(8).embed([{TEXT!r}])[0])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert done.stdout.strip() == str(vector)
