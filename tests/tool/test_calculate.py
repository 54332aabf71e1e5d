from __future__ import annotations

import operator
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tool.builtin.arithmetic import MOST_BITS, compute
from services.tool.builtin.calculate import CalculateParameters, calculate, decimal_of
from services.tool.errors import ToolFailed


def value(expression: str, places: int = 20) -> str:
    return calculate(CalculateParameters(expression=expression, places=places)).value


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0.1+0.2", "0.3"),
        ("1+2*3", "7"),
        ("(1+2)*3", "9"),
        ("2^3^2", "512"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("2^-2", "0.25"),
        ("2**10", "1024"),
        ("--3", "3"),
        ("7-2-1", "4"),
        ("8/2/2", "2"),
        ("50%", "0.5"),
        ("200*15%", "30"),
        ("10,000*2", "20000"),
        ("１２０００×３％", "360"),
        ("（１＋２）÷４", "0.75"),
        ("3万亿÷2", "1500000000000"),
        ("1.5万", "15000"),
        ("5加3乘以2减去1", "10"),
        ("9除以2", "4.5"),
        ("3的平方加2的立方", "17"),
        (".5", "0.5"),
        ("1 + 1", "2"),
    ],
)
def test_expressions(expression: str, expected: str) -> None:
    told = calculate(CalculateParameters(expression=expression))
    assert (told.value, told.exact) == (expected, True)


def test_what_has_no_end_is_rounded_and_says_so() -> None:
    told = calculate(CalculateParameters(expression="2/3", places=3))
    assert (told.value, told.exact, told.fraction) == ("0.667", False, "2/3")
    assert value("-2/3", 3) == "-0.667"
    assert value("1/3", 0) == "0"
    assert value("-1/3", 0) == "0"
    assert value("2/3", 0) == "1"


@pytest.mark.parametrize(
    ("expression", "said", "chinese"),
    [
        ("1÷0", "Division by zero at character 2", "第 2 个字符处除数为零"),
        ("1/(2-2)", "Division by zero at character 2", "除数为零"),
        ("0^0", "Zero to a power that is not positive", "零的指数应为正数"),
        ("0^-1", "Zero to a power that is not positive", "零的指数应为正数"),
        ("(1+2", "The bracket at character 1 is not closed", "括号没有闭合"),
        ("1+2)", r"Character 4 \(\)\) is not expected", "第 4 个字符"),
        ("1+", "A number is missing at character 3", "第 3 个字符处缺少数字"),
        ("", "A number is missing at character 1", "缺少数字"),
        ("1 2", r"Character 3 \(2\) is not expected", "不应出现"),
        ("*1", r"Character 1 \(\*\) is not expected", "不应出现"),
        ("1e5", r"Character 2 \(e\) is no part", "无法识别"),
        ("__import__('os')", r"Character 1 \(_\) is no part", "无法识别"),
        ("1,00", r"Character 2 \(,\) is no part", "无法识别"),
        ("2^0.5", "is not a whole number", "不是整数"),
        ("2^1001", "is beyond 1000", "超过上限 1000"),
        ("9^9^9", "is beyond 1000", "超过上限 1000"),
        ("(9^999)^999", "too many digits", "位数过多"),
        ("*".join(["9^999"] * 6), "too many digits", "位数过多"),
        ("(" * 60 + "1" + ")" * 60, "More than 50 levels", "嵌套超过 50 层"),
        ("-" * 60 + "1", "More than 50 levels", "嵌套超过 50 层"),
        ("1" + "^1" * 60, "More than 50 levels", "嵌套超过 50 层"),
        ("1" + "+1" * 300, "601 numbers and signs", "601 个数字与符号"),
    ],
)
def test_errors_name_their_place(expression: str, said: str, chinese: str) -> None:
    with pytest.raises(ToolFailed, match=said) as caught:
        compute(expression)
    assert chinese in caught.value.chinese


def test_the_largest_numbers_can_be_written() -> None:
    assert value("9^1000") == str(9**1000)
    assert value(f"2^1000*2^1000/3^1000*{'9' * 400}", 100)
    assert len(str(2**MOST_BITS)) + 100 < 4300  # what Python turns into a text in one piece


tree = st.recursive(
    st.integers(0, 20).map(lambda n: (str(n), Fraction(n))),
    lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner).map(
        lambda t: (
            f"({t[1][0]}{t[0]}{t[2][0]})",
            {"+": operator.add, "-": operator.sub, "*": operator.mul}[t[0]](t[1][1], t[2][1]),
        )
    ),
    max_leaves=12,
)


@given(tree)
def test_bracketed_expressions_are_computed_as_python_does(pair: tuple[str, Fraction]) -> None:
    expression, expected = pair
    assert compute(expression) == expected


@given(st.fractions(max_denominator=10**6), st.integers(0, 30))
def test_decimal_is_right_to_the_last_place(number: Fraction, places: int) -> None:
    text, exact = decimal_of(number, places)
    assert exact == (Fraction(text) == number) or not exact
    if not exact:
        assert abs(Fraction(text) - number) * 2 <= Fraction(1, 10**places)
        assert len(text.partition(".")[2]) == places


@given(st.text("0123456789.+-*/^%() 万亿加减乘除以", max_size=30))
def test_any_text_has_a_value_or_an_error_of_ours(expression: str) -> None:
    try:
        assert isinstance(compute(expression), Fraction)
    except ToolFailed as error:
        said = error
    else:
        return
    assert said.english
    assert said.chinese
