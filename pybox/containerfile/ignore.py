"""Which files of a context are left out: .dockerignore, by the rules of docker (moby/patternmatcher).

A pattern is about a path and all below it; the last pattern that says something counts; one that begins with ! takes back. Each
part is as in Go's filepath.Match, and ** is any number of parts.
"""

from __future__ import annotations

import re
from posixpath import normpath

from pybox.errors import PyboxError
from pybox.record import Record


class Pattern(Record):
    """One line."""

    text: str  # normalized
    back: bool  # it began with !
    exact: re.Pattern[str]


class Ignore(Record):
    """What a .dockerignore says."""

    patterns: tuple[Pattern, ...] = ()

    def excluded(self, path: str) -> bool:
        """Return whether a path, relative to the context, is left out."""
        excluded = False
        above = [path]
        while "/" in above[-1]:
            above.append(above[-1].rpartition("/")[0])
        for pattern in self.patterns:
            if pattern.back == excluded and any(pattern.exact.fullmatch(each) for each in above):
                excluded = not pattern.back
        return excluded

    def worth_entering(self, path: str) -> bool:
        """Return whether something below an excluded directory may have been taken back."""
        depth = path.split("/")
        for pattern in self.patterns:
            if pattern.back:
                parts = pattern.text.split("/")
                if "**" in parts[: len(depth)]:
                    return True
                if len(parts) > len(depth) and all(
                    re.fullmatch(_translated(mine), name, re.DOTALL) for mine, name in zip(parts, depth, strict=False)
                ):
                    return True
        return False


def parse(text: str, name: str) -> Ignore:
    """Read a .dockerignore. Raises PyboxError with the line of a pattern that is none."""
    found = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        wanted = line.strip()
        back = wanted.startswith("!")
        wanted = normpath(wanted.removeprefix("!").strip().lstrip("/") or ".")
        if wanted == ".":
            continue
        try:
            found.append(Pattern(wanted, back, re.compile(_whole(wanted), re.DOTALL)))
        except (re.error, ValueError) as error:
            raise PyboxError(f"{name}:{number}: {line.strip()}: not a pattern: {error}") from None
    return Ignore(tuple(found))


def _whole(pattern: str) -> str:
    """Return the regular expression of a path."""
    parts = pattern.split("/")
    text = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            text += ".*" if last else "(?:.*/)?"
        else:
            text += _translated(part) + ("" if last else "/")
    return text


def _translated(part: str) -> str:
    """Return the regular expression of one part of a path: * and ? and [...] and a backslash before any of them."""
    text, position = "", 0
    while position < len(part):
        char = part[position]
        position += 1
        if char == "*":
            double = part[position : position + 1] == "*"
            position += double
            text += ".*" if double else "[^/]*"
        elif char == "?":
            text += "[^/]"
        elif char == "[":
            inner, position = _class(part, position)
            text += inner
        elif char == "\\":
            if position == len(part):
                raise ValueError("a backslash at its end")
            text += re.escape(part[position])
            position += 1
        else:
            text += re.escape(char)
    return text


def _class(part: str, position: int) -> tuple[str, int]:
    negated = part[position : position + 1] == "^"
    position += negated
    text = ""
    while position < len(part) and (part[position] != "]" or not text):
        char = part[position]
        if char == "\\" and position + 1 < len(part):
            position += 1
            char = part[position]
            text += re.escape(char)
        else:
            text += "-" if char == "-" else re.escape(char)
        position += 1
    if position == len(part) or not text:
        raise ValueError("[ without ]")
    return f"[{'^/' if negated else ''}{text}]", position + 1


def matches(pattern: str, name: str) -> bool:
    """Return whether one part of a path is what one part of a pattern means: for the wildcards of COPY. Raises ValueError."""
    try:
        return re.fullmatch(_translated(pattern), name, re.DOTALL) is not None
    except re.error as error:
        raise ValueError(str(error)) from None
