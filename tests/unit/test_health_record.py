"""What results make of a container's health, as docker has it; its file is whole or absent, whatever lies there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox import health
from pybox.health import REMEMBERED, Check, Condition
from pybox.kept import Health

ASKED = Health(("true",), retries=3, start_period=10.0)


def after(*codes: int, at: float = 100.0, started: float = 0.0) -> Condition:
    """Return how a container is after checks with these exit codes."""
    condition = Condition()
    for code in codes:
        condition = condition.after(Check(at, at + 1, code, ""), ASKED, started)
    return condition


@pytest.mark.parametrize(
    ("codes", "status", "failing"),
    [
        ((), "starting", 0),
        ((0,), "healthy", 0),
        ((1,), "starting", 1),
        ((1, 1, 1), "unhealthy", 3),
        ((1, 1, 0), "healthy", 0),
        ((0, 1, 1), "healthy", 2),
        ((0, 1, 1, -1), "unhealthy", 3),
        ((1, 1, 1, 0), "healthy", 0),
        ((1, 1, 0, 1, 1), "healthy", 2),
    ],
)
def test_so_many_failures_in_a_row_make_it_unhealthy_and_one_success_healthy(
    codes: tuple[int, ...], status: str, failing: int
) -> None:
    condition = after(*codes)
    assert (condition.status, condition.failing) == (status, failing)


def test_failures_in_the_start_period_do_not_count_but_are_shown() -> None:
    condition = after(1, 1, 1, 1, at=5.0)
    assert (condition.status, condition.failing, len(condition.checks)) == ("starting", 0, 4)
    assert after(0, at=5.0).status == "healthy"
    # who has been healthy is not starting any more
    assert after(0, 1, 1, 1, at=5.0).status == "unhealthy"


@given(st.lists(st.sampled_from([0, 1, -1, 137]), max_size=30))
def test_the_last_few_results_are_remembered(codes: list[int]) -> None:
    assert [check.exit_code for check in after(*codes).checks] == codes[-REMEMBERED:]


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1e12), st.integers(-1, 255), st.text(max_size=50)), max_size=5))
def test_what_is_saved_is_loaded_again(tmp_path: Path, checks: list[tuple[float, float, int, str]]) -> None:
    condition = Condition("unhealthy", 7, tuple(Check(*each) for each in checks))
    health.save(str(tmp_path), condition)
    assert health.load(str(tmp_path)) == condition
    assert [path.name for path in tmp_path.iterdir()] == ["health"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"status": "x"}', '{"status": "healthy", "failing": 0, "checks": [{"a": 1}]}']
)
def test_a_file_of_another_version_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "health").write_text(text)
    assert health.load(str(tmp_path)) == Condition()


SECOND = 10**9


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"Test": ["CMD-SHELL", "curl x || exit 1"]}, Health(("/bin/sh", "-c", "curl x || exit 1"))),
        ({"Test": ["CMD", "a", "b"], "Interval": 5 * SECOND, "Timeout": SECOND // 2}, Health(("a", "b"), 5.0, 0.5)),
        ({"Test": ["CMD", "a"], "Retries": 7, "StartPeriod": SECOND}, Health(("a",), retries=7, start_period=1.0)),
        ({"Test": ["CMD", "a"], "Interval": 0, "Retries": 0}, Health(("a",))),
        ({"Test": ["NONE"]}, None),
        ({"Test": []}, None),
        ({"Test": ["CMD"]}, None),
        ({"Test": "x"}, None),
        ({"Test": ["CMD", 5]}, None),
        ({}, None),
        (None, None),
        ("x", None),
    ],
)
def test_an_image_can_ask_for_checks(asked: object, wanted: Health | None) -> None:
    assert health.of_config(json.dumps({"config": {"Healthcheck": asked}})) == wanted


@given(st.text(max_size=100))
def test_any_configuration_is_read_without_a_failure(text: str) -> None:
    assert health.of_config(text) is None
