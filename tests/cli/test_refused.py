"""What cannot work is refused before anything is started, with the setting that is to be changed."""

from __future__ import annotations

import pytest

from tests.cli.command import Command, Run, ports


def refused(run: Run, **env: str) -> str:
    """Run `up`, which must refuse; what it says."""
    up: Command = run("up", **ports(**env))
    assert up.finish() == 2, up.output
    assert "Traceback" not in up.output
    assert "starting" not in up.output
    assert not (up.path.parent / "var").exists()
    return up.output


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("QINGYU_BRIDGE__PORT", "many", "is 'many'; it must be a whole number from 0 to 65535"),
        ("QINGYU_BRIDGE__PORT", "", "is empty; it must be a whole number from 0 to 65535"),
        ("QINGYU_BRIDGE__PROT", "1", "is no setting; did you mean QINGYU_BRIDGE__PORT?"),
        (
            "QINGYU_BRIDGE__EXPECTED_WORKERS",
            "chat",
            'is \'chat\'; it must be a list in brackets, such as ["one", "two"]',
        ),
    ],
)
def test_a_setting_that_does_not_hold_is_named_with_its_value_and_what_is_accepted(
    run: Run, setting: str, value: str, sentence: str
) -> None:
    assert refused(run, **{setting: value}) == f"settings that do not hold:\n  {setting} {sentence}\n"
