"""What is shown to people: sizes, and text from a container made harmless for a terminal."""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def visible(text: str) -> str:
    r"""Return a text with everything that is no printable character escaped: a title-changing ESC becomes ``\x1b``."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int | None) -> str:
    """Return bytes for people: ``12.3MiB``; ``-`` for what nobody counted."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g}{_UNITS[unit]}" if value < 1000 else f"{value:.0f}{_UNITS[unit]}"
