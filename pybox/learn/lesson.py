"""Lesson: what one lesson says and asks, and how an answer is judged. Handed: an answer as it was handed in.

An answer is a text file of comments and a body. Two comments mean something, ``# lesson: 6`` and ``# predict: b``; what the body is
depends on the lesson: a `pybox run` line, a script for sh(1) that runs inside a container, or a list of moves.
"""

from __future__ import annotations

import os
from errno import ELOOP

from pybox.errors import PyboxError, SpecError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from pybox.fastjson import Json
    from pybox.learn.lab import Lab

    Kind = Literal["run", "script", "moves", "names"]

MOST = 65536  # bytes of an answer
LETTERS = "abcd"
_KINDS = {
    "run": "one `pybox run` line",
    "script": "a script for sh, which is run inside a container",
    "moves": "one move a line",
    "names": "one `NUMBER: words` a line",
}


class CannotHere(PyboxError):
    """This host can't show what the lesson is about; the hint names the item of `pybox doctor` that says what to mend."""

    exit_code = 2

    def __init__(self, reason: str, item: str) -> None:
        super().__init__(
            f"this host can't run the lesson: {reason}", f"`pybox doctor {item}` says what is missing and how to mend it"
        )
        self.item = item


class Finding(Record):
    """One thing that a check looked at: whether it is as asked, and what the kernel shows."""

    ok: bool
    says: str

    def to_json(self) -> dict[str, Json]:
        """Return the fields."""
        return {"ok": self.ok, "says": self.says}


def either(ok: bool, yes: str, no: str) -> Finding:
    """Return a finding that says one of two things."""
    return Finding(ok, yes if ok else no)


class Observed(Record):
    """How the experiment of a prediction went: the letter of what happened, and the evidence."""

    letter: str
    evidence: str


class Mutant(Record):
    """A wrong answer: the belief that leads to it, and words that the check must say of it."""

    belief: str
    answer: str
    says: str


class Lesson(Record):
    """One lesson. ``key`` is the letter of the right prediction: the experiment has to come out so, which a test holds."""

    number: int
    name: str
    title: str
    text: str
    question: str
    choices: tuple[str, ...]
    key: str
    task: str
    kind: Kind
    start: str  # the body that the learner begins with
    hint: str
    solution: str
    mutants: tuple[Mutant, ...]
    experiment: Callable[[Lab], Observed]
    check: Callable[[Lab, str], Iterator[Finding]]
    reading: tuple[str, ...]  # pages of the manual
    code: tuple[str, ...]  # files of pybox
    needs: tuple[str, ...] = ("userns",)  # items of doctor, the likeliest first
    shown: Callable[[Lab], Iterator[str]] | None = None  # what the task shows of this host

    def validate(self) -> None:
        """Refuse a lesson that nobody could pass or fail."""
        if self.key not in LETTERS[: len(self.choices)] or not self.mutants or self.start == self.solution:
            raise ValueError(f"lesson {self.number} is not complete")

    @property
    def file(self) -> str:
        """The name of its answer file."""
        return f"lesson-{self.number:02}.{'sh' if self.kind == 'script' else 'txt'}"

    def answer(self, body: str, predict: str = "") -> str:
        """Return the text of an answer file."""
        head = [
            f"# lesson: {self.number}",
            f"# {self.title}",
            f"# predict: {predict}",
            f"# The answer is {_KINDS[self.kind]}.",
            "",
        ]
        return "\n".join(head) + f"\n{body}\n"


class Handed(Record):
    """An answer file, read."""

    lesson: int  # 0: it does not say
    predict: str  # "" nothing yet
    body: str


def read_answer(path: str, folder: str | None = None) -> Handed:
    """Read an answer file; with a folder from there on, and then no link is followed. Raises SpecError for what is none."""
    try:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # of strangers: a FIFO would wait for ever
        fd = os.open(path, flags) if folder is None else _open_below(folder, path, flags | os.O_NOFOLLOW)
    except OSError as error:
        reason = "is a symbolic link" if error.errno == ELOOP and folder is not None else str(error.strerror)
        raise SpecError("answer", path, reason) from None
    try:
        data = os.read(fd, MOST + 1)
    except OSError as error:
        raise SpecError("answer", path, str(error.strerror)) from None
    finally:
        os.close(fd)
    if len(data) > MOST:
        raise SpecError("answer", path, f"is longer than {MOST} bytes")
    if b"\0" in data:
        raise SpecError("answer", path, "is no text file: it has a NUL in it")
    return parse(data.decode(errors="replace"))


def _open_below(folder: str, path: str, flags: int) -> int:
    """Open a file name by name: who handed it in may put a link in the place of any of them, at any moment."""
    *names, last = path.split("/")
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
        return os.open(last, flags, dir_fd=fd)
    finally:
        os.close(fd)


def parse(text: str) -> Handed:
    """Return what an answer says. A comment's meaning is read from its first word; the rest is the learner's."""
    number, predict, body = 0, "", []
    for line in text.splitlines():
        word, colon, value = line.removeprefix("#").strip().partition(":")
        value = value.strip().lower()
        if line.startswith("#") and colon and word == "lesson" and value.isascii() and value.isdigit():
            number = int(value[:4])
        elif line.startswith("#") and colon and word == "predict":
            predict = value[:1]
        else:
            body.append(line)
    return Handed(number, predict, "\n".join(body).strip())


def waits_for(kind: str) -> str:
    """Return the line of a script that waits until its last child is in another namespace than its own: fork comes before unshare."""
    return f'while [ "$(readlink /proc/$!/ns/{kind})" = "$(readlink /proc/self/ns/{kind})" ]; do :; done\n'


def rows(body: str) -> list[str]:
    """Return the lines of a body that are neither empty nor comments."""
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
