"""Words and variables of a Containerfile, by the rules of docker's shell/lex.go.

Not a shell: no globbing, no command substitution, and a variable that is not set is empty. ``escape`` is the character that takes
a meaning away, see the directive.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SPECIAL = frozenset("@*#?-$!0123456789")
_HALF = re.compile("[\ud800-\udfff]")


class WordError(ValueError):
    """A text that can't be taken apart; the message says why."""


def as_json(text: str) -> list[str] | None:
    """Return the words of the exec form, None for anything else: as in docker, what is no array of texts is for the shell.

    Half a surrogate pair ("\\ud800") is no character: it becomes U+FFFD, as in Go.
    """
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or any(not isinstance(word, str) or "\0" in word for word in found):
        return None
    return [_HALF.sub("\ufffd", word) for word in found]


def raw_words(text: str, escape: str) -> list[str]:
    """Return the words of a text as they stand there, quotes and escapes included."""
    found, word, quote, position = list[str](), "", "", 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == escape and quote != "'" and position < len(text):
            word += char + text[position]
            position += 1
            continue
        if not quote and char.isspace():
            if word:
                found.append(word)
            word = ""
            continue
        if char in "\"'" and quote in ("", char):
            quote = "" if quote else char
        word += char
    return [*found, word] if word else found


def expand(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """Return a text with its variables replaced, and quotes and escapes done. Raises WordError."""
    try:
        return _Expander(text, values, escape).until("")
    except RecursionError:
        raise WordError(_DEEP) from None


def expand_document(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """Return a here-document with its variables replaced; quotes mean nothing there, and an escape stays. Raises WordError."""
    try:
        return _Expander(text, values, escape).document()
    except RecursionError:
        raise WordError(_DEEP) from None


_DEEP = "variables stand too deep in the words of others"


class _Expander:
    def __init__(self, text: str, values: Mapping[str, str], escape: str) -> None:
        self._text, self._values, self._escape, self._at = text, values, escape, 0

    def _next(self) -> str:
        self._at += 1
        return self._text[self._at - 1 : self._at]

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def until(self, stop: str) -> str:
        """Return what comes before ``stop``, which is consumed; "" is the end of the text."""
        found = ""
        while char := self._next():
            if char == stop:
                return found
            if char == "'":
                end = self._text.find("'", self._at)
                if end < 0:
                    raise WordError("a ' that is not closed")
                found += self._text[self._at : end]
                self._at = end + 1
            elif char == '"':
                found += self._quoted()
            elif char == "$":
                found += self._variable()
            elif char == self._escape:
                found += self._next()
            else:
                found += char
        if stop:
            raise WordError(f"a {stop} is missing")
        return found

    def document(self) -> str:
        """Return all of it, with nothing replaced but variables."""
        found = ""
        while char := self._next():
            found += self._variable() if char == "$" else char + self._next() if char == self._escape else char
        return found

    def _quoted(self) -> str:
        found = ""
        while (char := self._next()) != '"':
            if char == "":
                raise WordError('a " that is not closed')
            if char == "$":
                found += self._variable()
            elif char == self._escape and self._peek() in ('"', "$", self._escape) and self._peek():
                found += self._next()
            else:
                found += char
        return found

    def _name(self) -> str:
        start = self._at
        if self._peek() in _SPECIAL and self._peek():
            return self._next()
        while (char := self._peek()) == "_" or (char.isascii() and char.isalnum()):
            self._at += 1
        return self._text[start : self._at]

    def _variable(self) -> str:
        if self._peek() != "{":
            name = self._name()
            return self._values.get(name, "") if name else "$"
        self._at += 1
        name = self._name()
        if not name:
            raise WordError("${ without a name")
        value = self._values.get(name)
        sign = self._next()
        if sign == "}":
            return value or ""
        empty_counts = sign != ":"  # ${x-y} takes an empty x as it is, ${x:-y} does not
        if not empty_counts:
            sign = self._next()
        if sign == "" or sign not in "-+?":
            raise WordError(f"${{{name}{'' if empty_counts else ':'}{sign}...}} is not supported: only -, +, ? and :-, :+, :?")
        word = self.until("}")
        there = value is not None and (empty_counts or value != "")
        if sign == "+":
            return word if there else ""
        if not there and sign == "?":
            raise WordError(f"{name}: {word or 'not set'}")
        return (value or "") if there else word
