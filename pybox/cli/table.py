"""What the listings share: columns, sizes and ages as docker writes them, and an option for their form."""

from __future__ import annotations

import time

from pybox.cli.options import Option, Parsed
from pybox.errors import SpecError
from pybox.shown import size as size
from pybox.shown import visible as visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = ((60, "minute"), (60, "hour"), (24, "day"), (7, "week"), (4.35, "month"), (12, "year"))
FORMAT = Option(("--format",), "", "json or table", "FORMAT")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns, the last one as wide as it is."""
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1)]
    return "\n".join("".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=False)) + row[-1] for row in rows)


def decimal(count: int) -> str:
    """Return bytes as docker prints them: three digits, units of 1000."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{_UNITS[-1]}"


def age(created: str) -> str:
    """Return how long ago an RFC 3339 time was, in words; "" when there is none, "N/A" when it can't be read."""
    from calendar import timegm

    if not created:
        return ""
    try:
        value = time.time() - timegm(time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "N/A"
    unit = "second"
    for step, larger in _AGES:
        if value < step:
            break
        value, unit = value / step, larger
    number = max(0, int(value))
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


def percent(value: float | None) -> str:
    """Return a share; ``-`` for what nobody counted."""
    return "-" if value is None else f"{value:.2f}%"


def form(parsed: Parsed, *allowed: str) -> str:
    """Return what --format says; the first of the allowed ones when it says nothing. Raises SpecError."""
    wanted = parsed.one("format") or allowed[0]
    if wanted not in allowed:
        raise SpecError("format", wanted, "must be " + " or ".join(allowed))
    return wanted
