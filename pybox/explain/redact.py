"""What a report does not tell unless it is asked to: values of environment variables, and whose home a path is in.

A report is made to be handed in or attached. Names of variables stay, for they say what the command was given. A value is also
looked for in all other text, where it is long enough not to be there by chance; what is typed into the command itself stays.
"""

from __future__ import annotations

import os
import re

from pybox.steps.base import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

HIDDEN = "…"
_LONG = 8  # characters: a shorter value (1, true, root) is a word like any other
_OTHERS = re.compile(r"/home/[^/\s\"',:;=\\)\]]+")


class Redactor:
    """Takes out of a text what is nobody's business. ``keep`` leaves everything as it is."""

    def __init__(self, env: Iterable[tuple[str, str]] = (), home: str = "", keep: bool = False) -> None:
        self.keep = keep
        values = {value for _, value in env if len(value) >= _LONG}
        # also as it stands in a system call, where quotes and newlines are escaped
        self._values = sorted(values | {quote(value)[1:-1] for value in values}, key=len, reverse=True)
        # as a whole word only: /rootfs is not in /root
        self._home = re.compile(rf"(?<![\w.~/-]){re.escape(home.rstrip('/'))}(?![\w.-])") if home.rstrip("/") else None

    def text(self, text: str) -> str:
        """Return a text without them."""
        if self.keep:
            return text
        for value in self._values:
            text = text.replace(value, HIDDEN)
        if self._home is not None:
            text = self._home.sub("~", text)
        return _OTHERS.sub(f"/home/{HIDDEN}", text)

    def value(self, value: str) -> str:
        """Return the value of a variable, or that there is one."""
        return value if self.keep else HIDDEN if value else ""


def home() -> str:
    """Return the caller's home directory."""
    return os.environ.get("HOME") or os.path.expanduser("~")
