"""Templates: ``{i}`` and ``{column}`` in the texts of a job that stands for many. ``{{`` and ``}}`` are braces.

Strict, because a brace that is let through unread is a mistake found too late: anything else that has braces is refused.
In a command that a shell will read, a value is quoted for it: a file name is a word there, whatever it is made of.
"""

from __future__ import annotations

import re
from shlex import quote

from pybox.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pybox.fastjson import Json

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def fill(field: str, text: str, values: Mapping[str, str], shell: bool = False) -> str:
    """Return a text with its placeholders filled in. Raises SpecError for one that has no value."""

    def put(part: re.Match[str]) -> str:
        if part[0] in ("{{", "}}"):
            return part[0][0]
        name = part[1]
        if name in values:
            return quote(values[name]) if shell else values[name]
        from difflib import get_close_matches

        near = get_close_matches(name or "", values, 1, 0.6)
        known = " ".join(f"{{{value}}}" for value in list(values)[:12])
        hint = f"did you mean {{{near[0]}}}?" if near else f"there are: {known}; a brace itself is written {{{{ or }}}}"
        raise SpecError(field, text, f"{part[0]} stands for nothing", hint)

    return _PART.sub(put, text) if "{" in text or "}" in text else text


def fill_all(field: str, value: Json, values: Mapping[str, str]) -> Json:
    """Return a value of any shape with the placeholders of all its texts filled in."""
    if isinstance(value, str):
        return fill(field, value, values)
    if isinstance(value, (list, tuple)):
        return [fill_all(field, entry, values) for entry in value]
    if isinstance(value, dict):
        return {key: fill_all(field, entry, values) for key, entry in value.items()}
    return value
