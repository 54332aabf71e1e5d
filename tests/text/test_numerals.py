from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text.numerals import numeral_of, value_of


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("一", 1),
        ("十", 10),
        ("十二", 12),
        ("二十", 20),
        ("廿四", 24),
        ("卅", 30),
        ("一百零五", 105),
        ("一百一十", 110),
        ("两百", 200),
        ("一千零一", 1001),
        ("一万二千", 12_000),
        ("一二三", 123),
        ("一〇五", 105),
        ("壹拾贰", 12),
        ("12", 12),
        ("１２", 12),
        ("007", 7),
    ],
)
def test_numerals_are_read(numeral: str, value: int) -> None:
    assert value_of(numeral) == value


@pytest.mark.parametrize(
    "numeral", ["", "百", "万", "十百", "一十百", "二三十", "零百", "廿廿", "一" * 13, "x", "1万x"]
)
def test_what_is_no_numeral_is_refused(numeral: str) -> None:
    assert value_of(numeral) is None


@given(st.integers(1, 9999))
def test_what_is_written_is_read(value: int) -> None:
    assert value_of(numeral_of(value)) == value
    assert value_of(str(value)) == value


@given(st.text("零一二三十百千万廿0９", max_size=14))
def test_any_string_of_these_characters_has_a_value_or_none(numeral: str) -> None:
    value = value_of(numeral)
    assert value is None or value >= 0


@pytest.mark.parametrize("value", [0, -1, 10_000])
def test_other_numbers_are_not_written(value: int) -> None:
    with pytest.raises(ValueError, match="not from 1 to 9999"):
        numeral_of(value)
