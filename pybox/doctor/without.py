"""Doctor without the C extension: there is one thing to say, and nothing else can be tried."""

from __future__ import annotations

from pybox.doctor.item import Item
from pybox.version import VERSION


def judge_missing_extension(reason: str) -> Item:
    """Return the item for a pybox without its C part; nothing else can be tried then."""
    return Item(
        "extension",
        f"pybox {VERSION}",
        "fail",
        "loaded the C extension",
        reason,
        "every run",
        "pip install --force-reinstall pybox   (in a checkout: make dev)",
        ("run", "rootless"),
    )
