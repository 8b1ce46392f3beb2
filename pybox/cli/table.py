"""What the listings share: columns, and an option for their form."""

from __future__ import annotations

from pybox.cli.options import Option, Parsed
from pybox.errors import SpecError
from pybox.shown import size as size
from pybox.shown import visible as visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = Option(("--format",), "", "json or table", "FORMAT")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns, the last one as wide as it is."""
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1)]
    return "\n".join("".join(f"{word:<{width}}" for word, width in zip(row, widths, strict=False)) + row[-1] for row in rows)


def percent(value: float | None) -> str:
    """Return a share; ``-`` for what nobody counted."""
    return "-" if value is None else f"{value:.2f}%"


def form(parsed: Parsed, *allowed: str) -> str:
    """Return what --format says; the first of the allowed ones when it says nothing. Raises SpecError."""
    wanted = parsed.one("format") or allowed[0]
    if wanted not in allowed:
        raise SpecError("format", wanted, "must be " + " or ".join(allowed))
    return wanted
