"""services/rag/terms.py: what a text is found by."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rag.terms import MOST_NAMES, MOST_QUERY_TERMS, fold, names_of, query_terms, terms

WORDS = "雨夜沈砚推开渡口的木门。VIP用户ａｂｃ寶玉\n"


def test_words_pairs_and_characters_are_terms_and_punctuation_is_none() -> None:
    found = Counter(terms("河面上，浮着薄雾。"))
    assert {"河面", "面上", "浮着", "着薄", "薄雾", "河", "雾"} <= found.keys()
    assert not {"上浮", "，", "。"} & found.keys()


def test_a_word_of_two_characters_counts_as_a_word_and_as_a_pair() -> None:
    found = Counter(terms("学生来了"))
    assert found["学生"] == 2
    assert found["生来"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＡＢＣ", "abc"),
        ("VIP", "vip"),
        ("寶玉", "宝玉"),
        ("ﬁre", "fire"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("e\u0301", "é"),
        ("㈱", "(株)"),
    ],
)
def test_what_a_searcher_takes_for_equal_has_equal_terms(one: str, other: str) -> None:
    assert terms(one) == terms(other) != []


def test_other_letters_are_words_at_the_border_to_chinese() -> None:
    found = set(terms("VIP用户买了3号"))
    assert {"vip", "3", "用户"} <= found
    assert not {"vip用户", "3号"} & found


def test_a_name_is_one_term_however_its_characters_would_be_segmented() -> None:
    text = "他把青铜小灯递给了阿烬"
    assert "青铜小灯" not in terms(text)
    assert {"青铜小灯", "阿烬"} <= set(terms(text, ["阿烬", "青铜小灯"]))
    assert "小灯" in terms(text, ["青铜小灯"])


def test_of_names_that_begin_at_one_place_the_longest_is_meant() -> None:
    assert terms("沈砚舟来了", ["沈砚", "沈砚舟"])[0] == "沈砚舟"


def test_names_do_not_overlap() -> None:
    assert [term for term in terms("沈砚舟台上", ["沈砚舟", "舟台"]) if len(term) == 3 or term == "舟台"] == [
        "沈砚舟",
        "舟台",
    ]
    assert terms("沈砚舟台上", ["沈砚舟", "舟台"]).count("舟台") == 1


def test_names_are_no_expressions() -> None:
    assert terms("a.c abc", ["a.c", "(", "[x"])[0] == "a.c"


@given(
    st.text(alphabet=st.sampled_from(WORDS) | st.characters(), max_size=60), st.lists(st.text(max_size=4), max_size=5)
)
@settings(deadline=None)
def test_any_text_has_terms_that_store_and_compare(text: str, names: list[str]) -> None:
    found = terms(text, names)
    assert all((term and "\n" not in term) or term in {fold(name) for name in names} for term in found)
    assert terms(text, names) == found
    assert set(query_terms(text, names)) <= set(found)


def test_terms_of_a_query_are_different_and_bounded() -> None:
    query = "".join(chr(0x4E00 + i) for i in range(10_000))
    assert len(query_terms(query)) == MOST_QUERY_TERMS
    assert sorted(query_terms("渡口，渡口，渡口")) == sorted(["渡口", "渡", "口"])


def test_threads_get_the_same_terms_as_one_after_another() -> None:
    texts = [f"第{i}夜，沈砚提着青铜小灯在渡口等船，雾里传来钟声。" * 20 for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(terms, texts)) == [terms(text) for text in texts]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"characters": "沈砚、老艄公，阿烬,闻霜;陆沉舟"}, ["沈砚", "老艄公", "阿烬", "闻霜", "陆沉舟"]),
        ({"places": '["沉灯渡", "回水湾"]', "sects": "司灯监"}, ["沉灯渡", "回水湾", "司灯监"]),
        ({"人物": "沈砚\n沈砚\n阿烬"}, ["沈砚", "阿烬"]),
        ({"names": '["沈砚", 3, null, ["x"]]'}, ["沈砚"]),
        ({"names": '["沈砚'}, ['["沈砚']),
        ({"names": "[" * 100_000}, []),
        ({"names": "ＡＬＩＣＥ、寶玉、灯、" + "长" * 33}, ["alice", "宝玉"]),
        ({"title": "沈砚"}, []),
        ({}, []),
    ],
)
def test_names_are_read_from_metadata(metadata: dict[str, str], expected: list[str]) -> None:
    assert names_of(metadata) == expected


def test_names_of_one_document_are_bounded() -> None:
    listed = "、".join(f"人物{i}" for i in range(3 * MOST_NAMES))
    assert len(names_of({"names": listed})) == MOST_NAMES
