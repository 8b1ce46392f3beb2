"""What this pybox was built as. .ci/bundle writes the installed one's: a checkout, which may change at any time, has none."""

from __future__ import annotations

ID = ""  # changes with every byte of the library


def more() -> None:
    """Load the modules that a command needs only when it was not typed before: the second part of an installed bundle."""
