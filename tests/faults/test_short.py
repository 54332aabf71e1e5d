"""The short form of the fault suite: counts are judged, times are only printed. `make faults` judges them."""

from __future__ import annotations

import pytest

from tests.faults.report import Control, Row, Run, carried_out
from tests.faults.rows import ROWS

pytestmark = [pytest.mark.once, pytest.mark.xdist_group("faults")]

SEED = 7


def _marks(row: Row) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(reason=row.defect, strict=True)] if row.defect else []


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=_marks(row)) for row in ROWS.values() if row.short]
)
def test_nothing_is_wrong_under(row: Row) -> None:
    assert carried_out(row, Run(row.short, SEED, short=True)).wrong == []


@pytest.mark.parametrize(
    ("row", "control"),
    [
        pytest.param(row, control, id=f"{row.name} without {control.guard}")
        for row in ROWS.values()
        for control in row.controls
        if control.in_test
    ],
)
def test_missing_guard_is_seen_by(row: Row, control: Control) -> None:
    wrong = carried_out(row, Run(control.dose, SEED, control.guard, short=True)).wrong
    assert any(control.red in finding for finding in wrong), wrong
