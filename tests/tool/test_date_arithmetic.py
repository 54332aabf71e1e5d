from __future__ import annotations

import json
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool.builtin.date_arithmetic import (
    DateArithmeticParameters,
    DateResult,
    add_months,
    between,
    date_arithmetic,
    parse_date,
)
from services.tool.errors import InvalidParameters, ToolFailed


def result(**parameters: object) -> DateResult:
    return date_arithmetic(date_arithmetic.read(json.dumps(parameters)))


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-05",
        "2024-3-5",
        "2024/3/5",
        "2024.3.5",
        "2024年3月5日",
        "2024年3月5号",
        "２０２４年３月５日",
        " 2024 年 3 月 5 日 ",
    ],
)
def test_forms_of_a_date(text: str) -> None:
    assert parse_date(text, "date") == date(2024, 3, 5)


@pytest.mark.parametrize(
    "text", ["", "今天", "2024", "2024-13-01", "2023-02-29", "20240305", "2024-03-05T00:00", "0-1-1"]
)
def test_what_is_no_date_is_told_with_the_parameter(text: str) -> None:
    with pytest.raises(ToolFailed, match=r"^other") as caught:
        parse_date(text, "other")
    assert "other" in caught.value.chinese


@pytest.mark.parametrize(
    ("start", "step", "expected"),
    [
        ("2024-01-31", {"months": 1}, "2024-02-29"),
        ("2023-01-31", {"months": 1}, "2023-02-28"),
        ("2024-02-29", {"years": 1}, "2025-02-28"),
        ("2024-02-29", {"years": 4}, "2028-02-29"),
        ("2024-03-31", {"months": -1}, "2024-02-29"),
        ("2024-01-31", {"months": 1, "days": 1}, "2024-03-01"),
        ("2024-12-31", {"days": 1}, "2025-01-01"),
        ("2024-01-01", {"weeks": -1}, "2023-12-25"),
        ("2024-01-01", {"years": 1, "months": -12}, "2024-01-01"),
        ("2024-01-01", {}, "2024-01-01"),
    ],
)
def test_steps(start: str, step: dict[str, int], expected: str) -> None:
    assert result(operation="add", date=start, **step).date == expected


@pytest.mark.parametrize("step", [{"years": 8000}, {"years": -3000}, {"days": 4_000_000}, {"months": 120_000}])
def test_result_outside_the_calendar_is_refused(step: dict[str, int]) -> None:
    with pytest.raises(ToolFailed, match="outside the years 1 to 9999"):
        result(operation="add", date="2024-01-01", **step)


def test_weekday_is_told_in_chinese() -> None:
    told = result(operation="weekday", date="2024年2月29日")
    assert (told.weekday, told.weekday_chinese, told.chinese) == (4, "星期四", "2024年2月29日")
    assert result(operation="weekday", date="2024-03-03").weekday_chinese == "星期日"


def test_difference_in_three_ways() -> None:
    told = result(operation="difference", date="2024-01-31", other="2025-03-01").between
    assert told is not None
    assert (told.days, told.weeks, told.days_after_weeks) == (395, 56, 3)
    assert (told.years, told.months, told.days_after_months) == (1, 1, 1)
    assert told.chinese == "395天（1年1个月1天）后"
    back = between(date(2024, 2, 29), date(2023, 2, 28))
    assert (back.days, back.years, back.days_after_months, back.chinese) == (-366, -1, -1, "366天（1年1天）前")
    assert between(date(2024, 1, 1), date(2024, 1, 1)).chinese == "同一天"
    assert between(date(2024, 1, 1), date(2024, 1, 9)).chinese == "8天后"


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"operation": "difference", "date": "2024-01-01"}, "other must be given for difference"),
        ({"operation": "add", "date": "2024-01-01", "other": "2024-01-01"}, "other must be given for difference"),
        ({"operation": "weekday", "date": "2024-01-01", "days": 1}, "belong to the operation add"),
        ({"operation": "minus", "date": "2024-01-01"}, "add, difference or weekday"),
        ({"operation": "add", "date": "2024-01-01", "days": 1.5}, "days is 1.5; it must be a whole number"),
        ({"operation": "add", "date": "2024-01-01", "years": 10_000}, "at most 9999"),
    ],
)
def test_parameters_that_do_not_fit_together(parameters: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidParameters, match=said):
        date_arithmetic.read(json.dumps(parameters))


dates = st.dates(date(1900, 1, 1), date(2100, 12, 31))


@given(dates, dates)
def test_difference_leads_from_one_date_to_the_other(start: date, end: date) -> None:
    apart = between(start, end)
    assert start + timedelta(days=apart.days) == end
    assert 7 * apart.weeks + apart.days_after_weeks == apart.days
    first, last = sorted((start, end))
    months, rest = abs(12 * apart.years + apart.months), abs(apart.days_after_months)
    assert add_months(first, months) + timedelta(days=rest) == last
    assert add_months(first, months + 1) > last


@given(dates, st.integers(-1000, 1000))
def test_month_end_rule(day: date, months: int) -> None:
    moved = add_months(day, months)
    assert (12 * moved.year + moved.month) - (12 * day.year + day.month) == months
    assert moved.day == day.day or (moved.day < day.day and (moved + timedelta(days=1)).day == 1)


@given(dates)
def test_what_is_told_is_read_again(day: date) -> None:
    told = date_arithmetic(DateArithmeticParameters(operation="weekday", date=day.isoformat()))
    assert parse_date(told.date, "date") == parse_date(told.chinese, "date") == day
