"""Detach keys: found however the typing is cut into pieces, and nothing else is held back for good."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.console import Keys, parse_keys
from pybox.errors import SpecError

KEYS = st.binary(min_size=0, max_size=4)
# few different bytes, so that beginnings of the keys are frequent
FEW = st.lists(st.sampled_from([b"a", b"b", b"\x10", b"\x11"]), max_size=30).map(b"".join)


def feed(keys: bytes, pieces: list[bytes]) -> tuple[bytes, bool]:
    """Return what was passed on until the keys were found, and whether they were."""
    finder, passed = Keys(keys), b""
    for piece in pieces:
        plain, found = finder.feed(piece)
        passed += plain
        if found:
            return passed, True
    return passed, False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@given(
    st.lists(st.sampled_from([b"a", b"b", b"\x10", b"\x11"]), max_size=3).map(b"".join),
    FEW,
    st.lists(st.integers(0, 99), max_size=8),
)
def test_the_keys_are_found_however_the_typing_is_cut(keys: bytes, typed: bytes, places: list[int]) -> None:
    passed, found = feed(keys, cut(typed, places))
    at = typed.find(keys) if keys else -1
    assert found == (at >= 0)
    if found:
        assert passed == typed[:at]
    else:
        held = typed[len(passed) :]
        assert typed.startswith(passed) and (not held or (len(held) < len(keys) and keys.startswith(held)))


@given(KEYS, FEW)
def test_without_keys_everything_passes_at_once(keys: bytes, typed: bytes) -> None:
    assert Keys(b"").feed(typed) == (typed, False)


@given(st.text(max_size=12))
def test_any_text_is_keys_or_a_clear_refusal(text: str) -> None:
    try:
        found = parse_keys(text)
    except SpecError as error:
        assert "detach-keys" in error.message
    else:
        assert len(found) == (text.count(",") + 1 if text else 0) and max(found, default=0) < 128


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (None, b"\x10\x11"),
        ("", b""),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("ctrl-a,d", b"\x01d"),
        ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", bytes([0, 27, 28, 29, 30, 31])),
        ("x", b"x"),
        ("ctrl-P", b"\x10"),
    ],
)
def test_keys_are_what_docker_calls_them(text: str | None, keys: bytes) -> None:
    assert parse_keys(text) == keys
