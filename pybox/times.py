"""Times: what people type after --since and --until, and how long ago something was, in docker's words.

A time is a whole number of nanoseconds since the epoch: what the log has is more precise than a float of seconds. Only images are
dated in seconds.
"""

from __future__ import annotations

from pybox.errors import SpecError

NANO = 1_000_000_000
_GO = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": NANO, "m": 60 * NANO, "h": 3600 * NANO}  # Go's time.ParseDuration
_LAST = 253_402_300_799 * NANO  # the end of the year 9999
_HINT = "10m (ago), 2026-01-31T15:04:05Z or seconds since 1970"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def parse_time(field: str, text: str, now: int) -> int:
    """Return the time of ``10m`` (before now), ``1700000000.5`` or RFC 3339, local if it names no zone. Raises SpecError."""
    given = text.strip()
    if len(given) > 60 or not given.isascii():
        raise SpecError(field, text[:80], "not a time", _HINT)
    whole, _, part = given.partition(".")
    if whole.isdigit() and (part.isdigit() or part == ""):
        when = int(whole) * NANO + _nanoseconds(part)
    else:
        ago = duration(given)
        when = _rfc3339(field, given) if ago is None else now - ago
    if not 0 <= when <= _LAST:
        raise SpecError(field, text, "out of range", _HINT)
    return when


def _nanoseconds(digits: str) -> int:
    return int(digits[:9].ljust(9, "0") or "0")


def duration(text: str) -> int | None:
    """Return a time as Go writes it (1h30m) in nanoseconds, Go's time.ParseDuration without signs; None for what is none."""
    rest, total = text, 0
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("abcdefghijklmnopqrstuvwxyz"))]
        rest = rest[len(unit) :]
        whole, _, part = number.partition(".")
        if unit not in _GO or not (whole + part).isdigit() or number.count(".") > 1:
            return None
        # the digits that are cut off are those of a number that is out of any range as it is; int() refuses thousands of them
        total += int(whole.lstrip("0")[:30] or "0") * _GO[unit] + _nanoseconds(part) * _GO[unit] // NANO
    return total if text else None


def _rfc3339(field: str, text: str) -> int:
    from datetime import datetime

    head, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    zone = rest[len(digits) :]
    try:
        # what ISO 8601 allows beside (weeks, no dashes) is not what docker takes
        if (dot and not digits) or head[4:5] != "-" or head[7:8] != "-" or not head[:4].isdigit() or "W" in head:
            raise ValueError(text)
        when = datetime.fromisoformat(head + zone)
        return int(when.astimezone().timestamp()) * NANO + _nanoseconds(digits)
    except (ValueError, OverflowError, OSError):
        raise SpecError(field, text, "not a time", _HINT) from None


def stamp(when: int) -> str:
    """Return a time as the log has it: RFC 3339, UTC, nine digits of a second. Two of them compare as texts."""
    from time import gmtime

    t = gmtime(when // NANO)
    return f"{t[0]:04}-{t[1]:02}-{t[2]:02}T{t[3]:02}:{t[4]:02}:{t[5]:02}.{when % NANO:09}Z"


def source_date_epoch() -> int | None:
    """Return SOURCE_DATE_EPOCH in seconds: nothing in an image is dated later (reproducible-builds.org). None when it is not set."""
    from os import environ

    text = environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def dated(latest: int | None) -> int:
    """Return the time, in seconds, that something new in an image gets: ``latest``, which is SOURCE_DATE_EPOCH, or now."""
    from time import time

    return int(time()) if latest is None else latest


def rfc3339(seconds: float) -> str:
    """Return a time as configurations of images have it: RFC 3339, UTC, whole seconds."""
    from time import gmtime, strftime

    return strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(seconds))


def lasting(seconds: float) -> str:
    """Return how long something lasts, as docker says it: ``3 minutes``. A clock that was set back gives the least."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < _MINUTE:
        return f"{whole} seconds"
    if whole < 2 * _MINUTE:
        return "About a minute"
    if whole < _HOUR:
        return f"{whole // _MINUTE} minutes"
    hours = round(whole / _HOUR)
    if hours <= 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    return f"{days // 30} months" if days < 730 else f"{days // 365} years"
