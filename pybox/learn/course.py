"""The course: its lessons in order, and how one answer is judged."""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.learn.lab import Lab, Refused
from pybox.learn.lesson import CannotHere, Finding, Handed, Lesson, Observed
from pybox.learn.lessons import broken, hostname, ids, init, layers, limits, mounts, network, process, rights, root, tree
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

LESSONS: tuple[Lesson, ...] = (
    process.LESSON,
    hostname.LESSON,
    mounts.LESSON,
    root.LESSON,
    layers.LESSON,
    init.LESSON,
    ids.LESSON,
    limits.LESSON,
    tree.LESSON,
    rights.LESSON,
    network.LESSON,
    broken.LESSON,
)


class Judged(Record):
    """What came of an answer. ``observed`` is None where nobody asked for the experiment, or this host can't show it."""

    lesson: int
    findings: tuple[Finding, ...]
    predict: str
    observed: Observed | None = None
    said: tuple[str, ...] = ()  # what the script wrote

    @property
    def passed(self) -> bool:
        """Whether all is as asked."""
        return bool(self.findings) and all(finding.ok for finding in self.findings)

    def to_json(self) -> dict[str, Json]:
        """Return it as --format json shows it; a prediction is no mark, it is there to be wrong."""
        observed = self.observed
        return {
            "lesson": self.lesson,
            "passed": self.passed,
            "findings": [finding.to_json() for finding in self.findings],
            "predicted": self.predict,
            "observed": observed.letter if observed else None,
            "evidence": observed.evidence if observed else None,
            "said": list(self.said),
        }


def lesson(word: str) -> Lesson:
    """Return a lesson by its number or name. Raises SpecError."""
    for found in LESSONS:
        if word == found.name or (word.isascii() and word.isdigit() and len(word) < 5 and int(word) == found.number):
            return found
    raise SpecError("lesson", word, f"must be 1 to {len(LESSONS)}, or a name", "`pybox learn --list` has them")


def judge(lab: Lab, task: Lesson, handed: Handed, experiment: bool = True) -> Judged:
    """Run an answer and look. Raises CannotHere where this host can't show it; nothing that the answer does raises anything else."""
    findings: list[Finding] = []
    lab.said = ()
    observed = None
    if experiment:
        try:
            observed = task.experiment(lab)
        except CannotHere:  # the task may be possible all the same
            pass
    try:
        if not handed.body:
            raise Refused("there is no answer in the file")
        findings.extend(task.check(lab, handed.body))
    except Refused as refused:
        findings.append(Finding(False, refused.message))
    return Judged(task.number, tuple(findings), handed.predict, observed, lab.said)
