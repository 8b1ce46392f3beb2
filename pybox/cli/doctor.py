"""`pybox doctor`: what this host can do for pybox, and how to mend the rest. Exit status 0: usable, 1: not."""

from __future__ import annotations

import json
import sys

from pybox.cli.options import Option, parse
from pybox.doctor import examine
from pybox.doctor.item import PURPOSES, Report
from pybox.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.dirs import Dirs
    from pybox.doctor.item import Purpose

DOCTOR = (
    Option(("--format",), "", "json or text", "FORMAT"),
    Option(("--for",), "", "run (as the caller, the default) or rootless (as a plain user)", "PURPOSE"),
)
_MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "n/a": "-"}
_ASCII = {"✓": "ok", "✗": "FAIL"}


def doctor(where: Dirs, words: list[str]) -> int:
    """Try what this host can do and print it; returns 0 when it is usable, else 1. Raises SpecError."""
    parsed = parse(DOCTOR, words)
    rest = parsed.rest
    if len(rest) > 1:  # options may follow the item
        more = parse(DOCTOR, rest[1:])
        parsed.values.update(more.values)
        rest = [rest[0], *more.rest]
    form = parsed.one("format") or "text"
    if form not in ("json", "text") or len(rest) > 1:
        raise SpecError("doctor", " ".join(words), "must be [ITEM] [--format json|text] [--for run|rootless]")
    report = examine(where, _purpose(parsed.one("for") or "run"), rest[0] if rest else "")
    text = json.dumps(report.to_json(), indent=2) if form == "json" else "\n".join(lines(report))
    print(_printable(text, sys.stdout.encoding))
    return 0 if report.usable else 1


def _purpose(word: str) -> Purpose:
    for purpose in PURPOSES:
        if purpose == word:
            return purpose
    raise SpecError("for", word, "must be " + " or ".join(PURPOSES))


def _printable(text: str, encoding: str | None) -> str:
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        for mark, word in _ASCII.items():
            text = text.replace(mark, word)
        return text.encode("ascii", "backslashreplace").decode()
    return text


def lines(report: Report) -> Iterator[str]:
    """Yield the text: a line for each item, three more for one that complains, and the verdict."""
    width = max(len(item.title) for item in report.found) + 2
    for item in report.found:
        yield f" {_MARKS[item.level]} {item.title:<{width}}{item.happened}"
        if report.single:
            yield f"     {'tried':<10} {item.tried}"
        if item.level in ("warn", "fail"):
            yield f"     {'you lose':<10} {item.lost}"
            yield f"     {'fix':<10} {item.fix}"
            yield f"     {'re-check':<10} {item.recheck}"
    yield verdict(report)


def verdict(report: Report) -> str:
    """Return the last line."""
    what = {"run": "`pybox run` works here", "rootless": "`pybox run` works here for plain users"}[report.purpose]
    if not report.usable:
        blockers = ", ".join(item.id for item in report.blockers)
        return (
            f"Result: {blockers}: not working"
            if report.single
            else f"Result: {what.replace('works', 'does not work')}; in the way: {blockers}"
        )
    losses = [item.id for item in report.found if item.level in ("warn", "fail")]
    if report.single:
        return f"Result: {report.found[0].id}: {'works, with the loss above' if losses else 'nothing to mend'}"
    return f"Result: {what}" + (f"; with losses: {', '.join(losses)}" if losses else "")
