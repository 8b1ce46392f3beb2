"""Answers of many people, judged one after the other. Each is a file; what is wrong with one is said of it, and the next goes on."""

from __future__ import annotations

import os

from pybox.errors import PyboxError, SpecError
from pybox.learn.course import LESSONS, Judged, judge, lesson
from pybox.learn.lesson import CannotHere, read_answer
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    from pybox.fastjson import Json
    from pybox.learn.lab import Lab

    Mark = Literal["passed", "not yet", "not here", "unreadable"]

_MOST = 10_000  # files
_DEEPEST = 30  # directories: a walk through as many as a path can have is not a thing that Python ends well


class Graded(Record):
    """One file, and what came of it."""

    file: str
    lesson: int  # 0: it does not say
    mark: Mark
    predicted: str = ""
    right: str = ""  # what would have been the right prediction; it is no part of the mark
    judged: Judged | None = None
    problem: str = ""

    @property
    def why(self) -> str:
        """The first thing that is not as asked, or what was in the way."""
        findings = self.judged.findings if self.judged else ()
        return self.problem or next((finding.says for finding in findings if not finding.ok), "")

    def to_json(self) -> dict[str, Json]:
        """Return it as --format json shows it."""
        return {
            "file": self.file,
            "lesson": self.lesson,
            "mark": self.mark,
            "predicted": self.predicted,
            "right": self.right,
            "why": self.why,
            "findings": [finding.to_json() for finding in self.judged.findings] if self.judged else [],
        }


def answers(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the files of answers as a folder and a path below it: those named, and in a directory all called lesson-*.

    No link is followed. Raises SpecError.
    """
    count = 0
    for path in paths:
        if not os.path.lexists(path):
            raise SpecError("grade", path, "no such file or directory")
        found = [os.path.split(path)]
        if os.path.isdir(path) and not os.path.islink(path):
            found = [(path, name) for name in _below(path)]
            if not found:
                raise SpecError("grade", path, "has no files of answers in it", "they are called lesson-NN.txt or lesson-NN.sh")
        count += len(found)
        if count > _MOST:
            raise SpecError("grade", path, f"more than {_MOST} files")
        yield from sorted(found)


def _below(path: str) -> Iterator[str]:
    for folder, inner, names in os.walk(path):
        here = os.path.relpath(folder, path)
        if here.count("/") >= _DEEPEST:
            inner.clear()
        for name in names:
            if name.startswith("lesson-") and name.endswith((".txt", ".sh")) and not os.path.islink(f"{folder}/{name}"):
                yield os.path.normpath(f"{here}/{name}")


def grade(lab: Lab, folder: str, name: str) -> Graded:
    """Judge one file, as ``answers`` yields it. Raises nothing for what is in it."""
    path = os.path.join(folder, name)
    try:
        handed = read_answer(name, folder or ".")
    except SpecError as error:
        return Graded(path, 0, "unreadable", problem=error.reason)
    if not 1 <= handed.lesson <= len(LESSONS):
        return Graded(path, handed.lesson, "unreadable", problem="its first line should be `# lesson: NUMBER`")
    task = lesson(str(handed.lesson))
    base = Graded(path, task.number, "not here", handed.predict, task.key)
    try:
        judged = judge(lab, task, handed, experiment=False)
    except CannotHere as here:
        return base.replace(problem=f"{here.message}; `pybox doctor {here.item}`")
    except PyboxError as error:
        return base.replace(problem=error.message)
    return base.replace(mark="passed" if judged.passed else "not yet", judged=judged)
