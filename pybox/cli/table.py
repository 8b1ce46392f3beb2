"""What the listings share: columns, sizes, and text from a container made harmless for a terminal."""

from __future__ import annotations

from pybox.cli.options import Option, Parsed
from pybox.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
FORMAT = Option(("--format",), "", "json or table", "FORMAT")


def visible(text: str) -> str:
    r"""Return a text with everything that is no printable character escaped: a title-changing ESC becomes ``\x1b``."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns, the last one as wide as it is."""
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1)]
    return "\n".join("".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=False)) + row[-1] for row in rows)


def size(count: int | None) -> str:
    """Return bytes for people: ``12.3MiB``; ``-`` for what nobody counted."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g}{_UNITS[unit]}" if value < 1000 else f"{value:.0f}{_UNITS[unit]}"


def percent(value: float | None) -> str:
    """Return a share; ``-`` for what nobody counted."""
    return "-" if value is None else f"{value:.2f}%"


def form(parsed: Parsed, *allowed: str) -> str:
    """Return what --format says; the first of the allowed ones when it says nothing. Raises SpecError."""
    wanted = parsed.one("format") or allowed[0]
    if wanted not in allowed:
        raise SpecError("format", wanted, "must be " + " or ".join(allowed))
    return wanted
