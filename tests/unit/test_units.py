"""Sizes, durations and counts: what is typed is read as docker reads it, or refused with one SpecError."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.units import parse_bytes, parse_cpus, parse_int, parse_seconds

NUMBERISH = st.text(st.sampled_from("0123456789.-+ eEkKmMgGtTpPbBiIshSnaf_\u0663\u00b2\n\0"), max_size=12)


@given(NUMBERISH | st.text())
@example("1e5")
@example("0x10")
@example("\u0663")
@example("\u00b2M")
@example(".")
@example("1.5.2")
def test_any_text_is_a_size_or_a_spec_error(text: str) -> None:
    try:
        size = parse_bytes("memory", text)
    except SpecError as error:
        assert error.field == "memory" and error.message.startswith("memory: ")
    else:
        assert isinstance(size, int) and 0 <= size < 1 << 63


@given(NUMBERISH | st.text())
@example("nan")
@example("inf")
@example("0")
@example("0.0ms")
def test_any_text_is_a_duration_or_a_spec_error(text: str) -> None:
    try:
        seconds = parse_seconds("timeout", text)
    except SpecError:
        return
    assert isinstance(seconds, float) and 0 < seconds < 1e9


@given(NUMBERISH | st.text())
@example("nan")
@example("-inf")
@example("1e400")
def test_any_text_is_a_number_of_cpus_or_a_spec_error(text: str) -> None:
    try:
        cpus = parse_cpus("cpus", text)
    except SpecError:
        return
    assert isinstance(cpus, float) and 0.01 <= cpus <= 100_000


@given(NUMBERISH | st.text())
@example("--1")
@example("-")
@example("1_000")
@example("\u0663")
@example("+1")
def test_any_text_is_a_whole_number_within_its_bounds_or_a_spec_error(text: str) -> None:
    try:
        number = parse_int("pids-limit", text, -5, 5000)
    except SpecError:
        return
    assert isinstance(number, int) and -5 <= number <= 5000


@given(st.integers(0, (1 << 63) - 1))
def test_a_size_in_bytes_is_itself_as_number_and_as_text(size: int) -> None:
    assert parse_bytes("memory", size) == size == parse_bytes("memory", str(size)) == parse_bytes("memory", f"{size}b")


@given(st.integers(0, 8191), st.sampled_from("kmgt"), st.sampled_from(("", "b", "ib", "B", "iB")))
def test_each_unit_is_a_power_of_1024_in_any_of_its_spellings(count: int, unit: str, ending: str) -> None:
    size = count * 1024 ** ("kmgt".index(unit) + 1)
    assert parse_bytes("memory", f"{count}{unit}{ending}") == size == parse_bytes("memory", f" {count}{unit.upper()}{ending} ")


@given(st.integers(1, 10**9 - 1))
def test_whole_seconds_round_trip(seconds: int) -> None:
    assert parse_seconds("timeout", str(seconds)) == parse_seconds("timeout", seconds) == parse_seconds("timeout", f"{seconds}s")


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), ("0.5", 0.5), (".5s", 0.5), ("2m", 120.0), ("1.5h", 5400.0), ("3", 3.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds("timeout", text) == seconds


@pytest.mark.parametrize(("text", "size"), [("64M", 64 << 20), ("1.5g", 3 << 29), ("512KiB", 512 << 10), ("0", 0), ("1 k", 1024)])
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes("memory", text) == size


def test_what_was_not_given_stays_none() -> None:
    assert parse_bytes("a", None) is parse_seconds("a", None) is parse_cpus("a", None) is parse_int("a", None, 0, 1) is None


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (parse_bytes, "lots", "memory: 'lots': not a size or number, e.g. 64M or 1.5g"),
        (parse_bytes, "64X", "memory: '64X': not a size or number, e.g. 64M or 1.5g"),
        (parse_bytes, "", "memory: not a size or number, e.g. 64M or 1.5g"),
        (parse_bytes, "-1", "memory: '-1': not a size or number, e.g. 64M or 1.5g"),
        (parse_bytes, -1, "memory: -1: out of range"),
        (parse_bytes, True, "memory: True: out of range"),
        (parse_bytes, "9999999p", "memory: '9999999p': out of range"),
        (parse_seconds, "soon", "memory: 'soon': not a size or number, e.g. 5, 0.5, 100ms or 2m"),
        (parse_seconds, "0", "memory: '0': must be more than 0 and less than 30 years"),
        (parse_seconds, float("nan"), "memory: nan: must be more than 0 and less than 30 years"),
        (parse_cpus, "half", "memory: 'half': not a number of CPUs, e.g. 0.5"),
        (parse_cpus, 0, "memory: 0: must be at least 0.01"),
    ],
)
def test_what_is_wrong_with_a_number_is_said(parse: type, value: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse("memory", value)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1.5", "pids-limit: '1.5': not a whole number"),
        ("", "pids-limit: not a whole number"),
        (True, "pids-limit: True: not a whole number"),
        ("0", "pids-limit: '0': must be between 1 and 9"),
        (10, "pids-limit: 10: must be between 1 and 9"),
    ],
)
def test_what_is_wrong_with_a_whole_number_is_said(value: int | str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_int("pids-limit", value, 1, 9)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_bytes, "9" * 5000),
        (parse_bytes, "9" * 400 + ".5"),
        (parse_seconds, "9" * 400),
        (parse_seconds, 10**400),
        (lambda field, text: parse_int(field, text, 0, 9), "9" * 5000),
    ],
    ids=["bytes, 5000 digits", "bytes, infinite", "seconds, 400 digits", "seconds, int", "int, 5000 digits"],
)
def test_a_number_too_long_for_python_is_a_spec_error(parse: type, text: str | int) -> None:
    with pytest.raises(SpecError):
        parse("memory", text)


@pytest.mark.parametrize("text", ["5b", "5mb", "5sb", "5hib"])
def test_a_size_is_no_duration(text: str) -> None:
    with pytest.raises(SpecError):
        parse_seconds("timeout", text)


@pytest.mark.parametrize("text", ["5bb", "5ib", "5bib"])
def test_a_size_has_one_unit(text: str) -> None:
    with pytest.raises(SpecError):
        parse_bytes("memory", text)


@pytest.mark.parametrize("text", ["1_0", "\u0663"])
def test_a_number_of_cpus_is_written_in_plain_digits(text: str) -> None:
    with pytest.raises(SpecError):
        parse_cpus("cpus", text)
