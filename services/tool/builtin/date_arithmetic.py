"""The tool date_arithmetic: days and months added to a date, the time between two dates, the day of the week."""

from __future__ import annotations

import calendar
import re
from datetime import date, timedelta
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from services.tool.definition import Parameters, tool
from services.tool.errors import Refusal, ToolFailed

WEEKDAYS = "一二三四五六日"
LARGEST_STEP = 4_000_000
"""Days; more than there are from year 1 to year 9999."""

_FORMS = re.compile(
    r"(?P<year>[0-9]{1,4})(?:年|[-/.])(?P<month>[0-9]{1,2})(?:月|[-/.])(?P<day>[0-9]{1,2})(?:日|号|號)?"
)
_FULL_WIDTH = str.maketrans("０１２３４５６７８９－／．", "0123456789-/.")
_EXAMPLE = "2024-03-05、2024/3/5 或 2024年3月5日"


class DateArithmeticParameters(Parameters):
    """What to compute."""

    operation: Literal["add", "difference", "weekday"] = Field(
        description="add：在 date 上加减年、月、周、日；difference：从 date 到 other；weekday：date 是星期几。"
    )
    date: str = Field(max_length=30, description=f"日期，公历，如 {_EXAMPLE}。")
    other: str | None = Field(default=None, max_length=30, description="difference 的另一个日期，格式同 date。")
    years: int = Field(default=0, ge=-9999, le=9999, description="add 要加的年数，可为负。")
    months: int = Field(default=0, ge=-120_000, le=120_000, description="add 要加的月数，可为负。")
    weeks: int = Field(default=0, ge=-600_000, le=600_000, description="add 要加的周数，可为负。")
    days: int = Field(default=0, ge=-LARGEST_STEP, le=LARGEST_STEP, description="add 要加的天数，可为负。")

    @model_validator(mode="after")
    def _fits_together(self) -> DateArithmeticParameters:
        if (self.operation == "difference") != (self.other is not None):
            raise Refusal("other must be given for difference, and only for it", "other 应且仅应在 difference 时给出")
        if self.operation != "add" and (self.years or self.months or self.weeks or self.days):
            raise Refusal(
                "years, months, weeks and days belong to the operation add", "years、months、weeks、days 仅用于 add"
            )
        return self


class Between(BaseModel):
    """The time between two dates. All numbers have the sign of `days`."""

    days: int
    weeks: int
    days_after_weeks: int
    years: int
    months: int
    days_after_months: int
    chinese: str


class DateResult(BaseModel):
    """The result: of add and weekday, the date; of difference, `other`."""

    date: str = Field(description="ISO 格式")
    chinese: str
    weekday: int = Field(description="1 为星期一，7 为星期日")
    weekday_chinese: str
    between: Between | None = None


@tool(category="date")
def date_arithmetic(parameters: DateArithmeticParameters) -> DateResult:
    """公历日期计算：给日期加减年、月、周、日，求两个日期相差多少，或查某天是星期几。加月遇到没有的日子时取该月最后一天
    （1 月 31 日加一个月是 2 月 28 或 29 日）。

    The calendar is the Gregorian one for all years from 1 to 9999, also before 1582.
    """
    start = parse_date(parameters.date, "date")
    if parameters.other is not None:
        end = parse_date(parameters.other, "other")
        return _told(end, between(start, end))
    try:
        moved = add_months(start, 12 * parameters.years + parameters.months)
        return _told(moved + timedelta(days=7 * parameters.weeks + parameters.days))
    except OverflowError:
        raise ToolFailed("The result is outside the years 1 to 9999", "结果超出公元 1 年至 9999 年的范围") from None


def parse_date(text: str, name: str) -> date:
    """Read a date.

    Raises:
        ToolFailed: it is none, or there is no such day. The message names the parameter.
    """
    match = _FORMS.fullmatch("".join(text.split()).translate(_FULL_WIDTH))
    if match is None:
        raise ToolFailed(
            f"{name} is {text!r}; it must be a date such as 2024-03-05",
            f"{name} 的值为“{text}”；应为日期，如 {_EXAMPLE}",
        )
    try:
        return date(int(match["year"]), int(match["month"]), int(match["day"]))
    except ValueError:
        raise ToolFailed(f"{name}: there is no day {text!r}", f"{name}：没有“{text}”这一天") from None


def add_months(day: date, months: int) -> date:
    """Move a date by months; a day that the month does not have becomes its last one.

    Raises:
        OverflowError: there is no such year.
    """
    year, month = divmod(12 * day.year + day.month - 1 + months, 12)
    if not date.min.year <= year <= date.max.year:
        raise OverflowError(f"year {year}")
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def between(start: date, end: date) -> Between:
    """Measure the time from one date to another.

    In months and days: as many whole months as `add_months` can add to the earlier date without passing the later one, then days.
    """
    first, last = sorted((start, end))
    months = 12 * (last.year - first.year) + last.month - first.month
    if add_months(first, months) > last:
        months -= 1
    rest = (last - add_months(first, months)).days
    days = (last - first).days
    sign = 1 if end >= start else -1
    return Between(
        days=sign * days,
        weeks=sign * (days // 7),
        days_after_weeks=sign * (days % 7),
        years=sign * (months // 12),
        months=sign * (months % 12),
        days_after_months=sign * rest,
        chinese=_span(days, months, rest) + ("前" if sign < 0 else "后") if days else "同一天",
    )


def _span(days: int, months: int, rest: int) -> str:
    parts = ((months // 12, "年"), (months % 12, "个月"), (rest, "天"))
    split = "".join(f"{number}{unit}" for number, unit in parts if number)
    return f"{days}天" if not months else f"{days}天（{split}）"


def _told(day: date, apart: Between | None = None) -> DateResult:
    return DateResult(
        date=day.isoformat(),
        chinese=f"{day.year}年{day.month}月{day.day}日",
        weekday=day.isoweekday(),
        weekday_chinese="星期" + WEEKDAYS[day.weekday()],
        between=apart,
    )
