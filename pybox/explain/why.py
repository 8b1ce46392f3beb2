"""What an error code means, and which of its causes this host has: the table of codes.py, with its probes asked now.

A cause that only the failed launch could see is said to be one; what doctor can try is tried.
"""

from __future__ import annotations

import errno as errnos
import inspect
import os

from pybox import host
from pybox.causes import Cause, Code
from pybox.codes import CODES
from pybox.errors import SpecError
from pybox.probes import Case
from pybox.record import Record
from pybox.steps.base import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.doctor.item import Item
    from pybox.fastjson import Json


class Verdict(Record):
    """One cause: ``true`` is what its probe said, None where only the launch can tell. ``how``: what was tried and seen, if it was."""

    cause: Cause
    true: bool | None
    how: str
    fix: str | None

    def to_json(self) -> dict[str, Json]:
        """Return it as `--format json` shows it."""
        return {
            "cause": self.cause.name,
            "means": self.cause.sentence,
            "probed": self.true,
            "seen": self.how or None,
            "fix": self.fix,
        }


class Answer(Record):
    """All that is known of a code on this host."""

    code: Code
    error: str  # the kernel's words for the errno, "" for none
    steps: tuple[type[Step], ...]  # those that can fail so
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as `--format json` shows it."""
        return {
            "schema": "pybox.why/1",
            "code": self.code.name,
            "means": self.code.means,
            "errno": self.error or None,
            "steps": [kind.__name__ for kind in self.steps],
            "read": list(self.read),
            "causes": [verdict.to_json() for verdict in self.verdicts],
        }

    @property
    def read(self) -> tuple[str, ...]:
        """The pages to read."""
        return tuple(dict.fromkeys(page for page in (self.code.read, *(kind.man for kind in self.steps)) if page))


def answer(where: Dirs, name: str, tries: Callable[[str], Item] | None = None) -> Answer:
    """Look a code up and ask its probes. ``tries`` makes one of doctor's items. Raises SpecError for a code that is none."""
    code, kinds, error = find(name)
    facts = host.probe()
    case = Case(where, facts.root, not facts.root, facts.capabilities)
    tries = tries or (lambda item: _tried(where, item))
    return Answer(code, error, kinds, tuple(_verdict(cause, case, tries) for cause in code.causes))


def _verdict(cause: Cause, case: Case, tries: Callable[[str], Item]) -> Verdict:
    if cause.item:
        item = tries(cause.item)
        return Verdict(cause, item.level in ("warn", "fail"), item.happened, item.fix or cause.hint)
    return Verdict(cause, None if cause.probe is None else cause.probe(case), "", cause.hint)


def _tried(where: Dirs, item: str) -> Item:
    from pybox.doctor import examine

    return examine(where, only=item).found[0]


def find(name: str) -> tuple[Code, tuple[type[Step], ...], str]:
    """Return a code, the kinds of steps that can fail with it, and the kernel's words for its errno. Raises SpecError."""
    name = name.upper() if name.upper().startswith("E-") else f"E-{name.upper()}"
    call, _, word = name.removeprefix("E-").rpartition("-")
    kinds = tuple(kind for kind in step_kinds() if kind.call.upper() == call)
    number = next((number for number, known in errnos.errorcode.items() if known == word), 0)
    if name in CODES:
        return CODES[name], kinds, f"{os.strerror(number)} [{word}]" if number else ""
    if kinds and (number or word == "KILLED"):
        means = os.strerror(number) if number else "the process was killed in this step"
        return Code(name, f"{call.lower()} failed: {means}"), kinds, f"{means} [{word}]" if number else ""
    from difflib import get_close_matches

    near = get_close_matches(name, CODES, 1, 0.75)
    raise SpecError("why", name, "no such code", f"did you mean {near[0]}?" if near else "`pybox why` lists them")


def step_kinds() -> tuple[type[Step], ...]:
    """Return all kinds of steps: those of each module in pybox/steps, so that none can be forgotten here."""
    from importlib import import_module
    from pkgutil import iter_modules

    from pybox import steps

    modules = (import_module(f"pybox.steps.{module.name}") for module in iter_modules(steps.__path__))
    found = (kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass))
    return tuple(dict.fromkeys(kind for kind in found if issubclass(kind, Step) and kind.call))
