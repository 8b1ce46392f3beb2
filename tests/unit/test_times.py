"""Times are read as docker reads them, exactly, and how long ago something was is said as docker says it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.times import NANO, lasting, parse_time, stamp

NOW = 1_700_000_000 * NANO


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10m", NOW - 600 * NANO),
        ("1h30m", NOW - 5400 * NANO),
        ("1.5h", NOW - 5400 * NANO),
        ("0s", NOW),
        ("250ms", NOW - NANO // 4),
        ("1700000000", NOW),
        ("1700000000.000000001", NOW + 1),
        ("0", 0),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.5Z", NOW + NANO // 2),
        ("2023-11-14T22:13:20.123456789Z", NOW + 123456789),
        ("2023-11-15T00:13:20+02:00", NOW),
    ],
)
def test_a_time_is_read_to_the_nanosecond(text: str, wanted: int) -> None:
    assert parse_time("since", text, NOW) == wanted


@pytest.mark.parametrize("text", ["2023-11-14T22:13:20", "2023-11-14T22:13", "2023-11-14"])
def test_a_time_without_a_zone_is_local(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    try:
        form = "%Y-%m-%dT%H:%M:%S"[: {19: 17, 16: 14, 10: 8}[len(text)]]
        assert parse_time("since", text, NOW) == int(time.mktime(time.strptime(text, form))) * NANO
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    ["", "x", "10", "10d", "m", "1h-", "-10m", "+5s", "1..5s", ".", "1e3", "2023-13-01", "2023-W01-1", "20231114", "9" * 30,
     "2023-11-14T22:13:20.Z", "2023-11-14T22:13:20.5Q", "\uff11\uff12", "10m\n", "0001-01-01T00:00:00Z", "99999999h"],
)  # fmt: skip
def test_what_is_no_time_is_refused_in_one_line(text: str) -> None:
    if text in ("10", "20231114"):  # seconds
        assert parse_time("since", text, NOW) == int(text) * NANO
        return
    if text == "10m\n":  # white space around it is nothing
        assert parse_time("since", text, NOW) == NOW - 600 * NANO
        return
    with pytest.raises(SpecError) as caught:
        parse_time("since", text, NOW)
    assert "since" in caught.value.message and caught.value.hint


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        parse_time("since", text, NOW)
    except SpecError:
        pass


@given(st.integers(0, 253_402_300_799 * NANO), st.integers(0, 253_402_300_799 * NANO))
def test_stamps_compare_as_the_times_do_and_are_read_again(one: int, other: int) -> None:
    assert (stamp(one) < stamp(other)) == (one < other) and len(stamp(one)) == 30
    assert parse_time("since", stamp(one), NOW) == one


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (-5, "Less than a second"),
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (3599, "59 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (48 * 3600, "2 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (730 * 86400, "2 years"),
    ],
)
def test_how_long_is_said_as_docker_says_it(seconds: float, wanted: str) -> None:
    assert lasting(seconds) == wanted
