"""From the text of a Containerfile to its instructions: directives, comments, continued lines, flags, here-documents.

What each means is not asked here (checking.py), and no variable is replaced (words.py): both need the line, which is kept. The
rules are those of BuildKit's parser, dockerfile(5). No parser on PyPI knows all of them: docs/build.md says which was looked at.
"""

from __future__ import annotations

import re

from pybox.containerfile.errors import ContainerfileError
from pybox.containerfile.words import as_json, raw_words
from pybox.record import Record

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"\d*<<(-?)(\"[^<\"]+\"|'[^<']+'|[^<'\"]+)")
_FLAGGED = frozenset(("FROM", "RUN", "COPY", "ADD", "HEALTHCHECK"))
_MOST = 1 << 20  # bytes of a Containerfile; a longer one is not one


class Heredoc(Record):
    """A here-document: what stands below its instruction up to a line with its name."""

    name: str
    text: str
    expand: bool  # its name was not quoted


class Instruction(Record):
    """One instruction. ``text`` is what follows its word and flags, with continued lines joined."""

    word: str  # upper case
    line: int  # where it begins, from 1
    text: str
    flags: tuple[tuple[str, str], ...] = ()
    heredocs: tuple[Heredoc, ...] = ()

    def shown(self) -> str:
        """Return it in one line, for people."""
        flags = "".join(f"--{name}{'=' * bool(value)}{value} " for name, value in self.flags)
        return f"{self.word} {flags}{' '.join(self.text.split())}".rstrip()


class Containerfile(Record):
    """A text that was read."""

    name: str  # for messages
    instructions: tuple[Instruction, ...]
    escape: str = "\\"

    def wrong(self, line: int, reason: str, hint: str | None = None) -> ContainerfileError:
        """Return the error of a line."""
        return ContainerfileError(self.name, line, reason, hint)


def read(blob: bytes, name: str) -> Containerfile:
    """Read a Containerfile. Raises ContainerfileError with the line."""
    if len(blob) > _MOST:
        raise ContainerfileError(name, 0, f"more than {_MOST >> 20} MB: not a Containerfile")
    try:
        text = blob.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise ContainerfileError(name, blob.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    if "\0" in text:
        raise ContainerfileError(name, text.count("\n", 0, text.index("\0")) + 1, "a zero byte")
    return _Reader(name, [line.removesuffix("\r") for line in text.split("\n")]).read()


class _Reader:
    def __init__(self, name: str, lines: list[str]) -> None:
        self._name, self._lines, self._at, self._escape = name, lines, 0, "\\"

    def _wrong(self, line: int, reason: str, hint: str | None = None) -> ContainerfileError:
        return ContainerfileError(self._name, line, reason, hint)

    def read(self) -> Containerfile:
        self._directives()
        found = []
        while self._at < len(self._lines):
            if not _is_code(self._lines[self._at]):
                self._at += 1
            elif (instruction := self._instruction()) is not None:
                found.append(instruction)
        if not found:
            raise self._wrong(0, "no instructions")
        return Containerfile(self._name, tuple(found), self._escape)

    def _directives(self) -> None:
        """Read `# escape=` and `# syntax=`, which stand above everything else, comments included."""
        seen = set()
        while self._at < len(self._lines) and (match := _DIRECTIVE.fullmatch(self._lines[self._at].strip())):
            self._at += 1
            key, value = match[1].lower(), match[2]
            if key not in ("escape", "syntax", "check"):
                return  # a comment that looks like one
            if key in seen:
                raise self._wrong(self._at, f"a second directive {key}")
            seen.add(key)
            if key == "escape":
                if value not in ("\\", "`"):
                    raise self._wrong(self._at, f"escape={value}: must be \\ or `")
                self._escape = value
            elif key == "syntax" and not value.removeprefix("docker.io/").startswith("docker/dockerfile"):
                raise self._wrong(self._at, f"syntax={value}: another language than docker/dockerfile is not supported")

    def _instruction(self) -> Instruction | None:
        """Read one instruction; None for continued lines with nothing on them."""
        number = self._at + 1
        text, goes_on = self._cut(self._lines[self._at].lstrip())
        self._at += 1
        while goes_on and self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if _is_code(line):  # comments and empty lines in between are dropped
                more, goes_on = self._cut(line)
                text += more
        parts = text.split(None, 1)
        if not parts:
            return None
        word, rest = parts[0].upper(), parts[1].strip() if len(parts) > 1 else ""
        flags, rest = _flags(rest) if word in _FLAGGED else ((), rest)
        heredocs: tuple[Heredoc, ...] = ()
        if word in ("RUN", "COPY", "ADD") and "<<" in rest and as_json(rest) is None:
            heredocs = tuple(self._heredoc(match, number) for match in self._marks(rest))
        return Instruction(word, number, rest, flags, heredocs)

    def _cut(self, line: str) -> tuple[str, bool]:
        """Return a line without its continuation mark, and whether it had one: an escape that is not escaped itself."""
        bare = line.rstrip(" \t")
        if bare.endswith(self._escape) and not bare[:-1].endswith(self._escape):
            return bare[:-1], True
        return line, False

    def _marks(self, text: str) -> list[re.Match[str]]:
        return [match for word in raw_words(text, self._escape) if (match := _HEREDOC.fullmatch(word))]

    def _heredoc(self, match: re.Match[str], number: int) -> Heredoc:
        name = match[2].strip("\"'")
        body: list[str] = []
        while self._at < len(self._lines):
            line = self._lines[self._at].lstrip("\t") if match[1] else self._lines[self._at]
            self._at += 1
            if line == name:
                return Heredoc(name, "".join(f"{each}\n" for each in body), match[2] == name)
            body.append(line)
        raise self._wrong(number, f"the here-document <<{name} has no end", f"a line with {name} and nothing else")


def _is_code(line: str) -> bool:
    bare = line.strip()
    return bare != "" and not bare.startswith("#")


def _flags(text: str) -> tuple[tuple[tuple[str, str], ...], str]:
    found = []
    while text.startswith("--"):
        parts = text.split(None, 1)
        text = parts[1] if len(parts) > 1 else ""
        if parts[0] == "--":
            break
        name, _, value = parts[0][2:].partition("=")
        found.append((name, value))
    return tuple(found), text
