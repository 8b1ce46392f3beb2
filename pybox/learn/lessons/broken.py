"""Lesson 12: five containers, each made with one step left out. Which one, only the kernel's view of them says."""

from __future__ import annotations

import os

from pybox.errors import PyboxError
from pybox.explain.analysis import last_row, shows
from pybox.explain.snapshot import Change, Shot, difference, take
from pybox.explain.stepping import Walk
from pybox.host import read
from pybox.learn.lab import Lab, Refused
from pybox.learn.lesson import CannotHere, Finding, Lesson, Mutant, Observed, rows
from pybox.planner import Planned, ready_of
from pybox.runtime import Options
from pybox.shown import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.spec import Spec
    from pybox.steps.base import ChildStep

# Left out of the five, by the beginning of what `pybox explain` calls them.
_MISSING = ("filter system calls", "drop all but", "let go of the host's tree", "make /proc/sys read-only", "start a session")
# What may be left out for a try: whoever could name "let no mount propagate to the host" would mount on the host.
_CALLED = (
    *_MISSING,
    "keep ",
    "set the file mode mask",
    "cover /proc/",
    "mount /proc/sys on itself",
    "mount mqueue",
    "mount devpts",
)


def _spec(lab: Lab) -> Spec:
    return lab.spec("true")


def _found(lab: Lab, words: str) -> ChildStep:
    """Return the one step of the plan that some words name. Raises Refused."""
    steps = lab.runtime.planner.ready(_spec(lab), False).plan.inside
    named = [step for step in steps if words and words in step.describe()]
    exact = [step for step in named if step.describe() == words]
    if len(exact) != 1 and len(named) != 1:
        raise Refused(
            f"{visible(words)!r} names {len(named)} steps of `pybox explain run --userns busybox true`: take all of its words"
        )
    step = exact[0] if len(exact) == 1 else named[0]
    if not step.describe().startswith(_CALLED):
        raise Refused(f"{visible(words)!r}: without this step there would be no container to look at")
    return step


def _made(lab: Lab, without: ChildStep | None) -> tuple[Shot, bool]:
    """Make a container up to where its command would begin, without a step; returns what /proc shows of it, and whether the
    post-condition of that step holds."""
    spec = _spec(lab)
    whole = lab.runtime.planner.ready(spec, False)

    def cut(ready: Planned) -> Planned:
        steps = tuple(step for step in ready.plan.inside if without is None or step.describe() != without.describe())
        return ready_of(ready.given, ready.plan.replace(inside=steps), ready.asked)

    gate = last_row(whole.plan) - (without is not None)
    walk = Walk(lab.runtime.dirs, spec, Options(), gate, cut)
    reached = None
    try:
        reached = walk.wait()
        if reached is not None:
            holds = without is None or shows(without, walk.seen)
            return _plain(take(walk.seen), walk.recorder.identity), holds
    finally:
        walk.abort()
        try:
            walk.result()
        except PyboxError as error:
            problem = error
    if without is not None:
        raise Refused(f"without {without.describe()} no container comes about: {problem.message}")
    raise CannotHere(problem.message, "run")


def _plain(shot: Shot, identity: str) -> Shot:
    """Return a state without what differs from run to run: numbers of namespaces, pipes and containers."""
    facts = set()
    for subject, what, value in shot.facts:
        if subject == "namespaces" and value.startswith(what.partition(" ")[0]):
            value = "its own"
        if what.startswith("fd "):
            value = value.partition("[")[0]
        facts.add((subject, what, value.replace(identity, "ID")))
    return Shot(frozenset(facts))


def _evidence(lab: Lab) -> list[list[Change]]:
    """Return what is different in each of the five beside a whole container. Made once."""
    if "broken" not in lab.kept:
        whole, _ = _made(lab, None)
        lab.kept["whole"] = whole
        lab.kept["broken"] = [difference(whole, _made(lab, _found(lab, words))[0]) for words in _MISSING]
    found = lab.kept["broken"]
    assert isinstance(found, list)
    return found


def _shown(lab: Lab) -> Iterator[str]:
    for number, changes in enumerate(_evidence(lab), 1):
        yield f"\n    container {number}, beside a whole one:"
        for change in changes:
            yield f"        {visible(str(change))}"


def _experiment(lab: Lab) -> Observed:
    where, spec = lab.runtime.dirs, _spec(lab)
    before, mounts = set(os.listdir(where.state)), len(read("/proc/self/mountinfo").splitlines())
    walk = Walk(where, spec, Options(), last_row(lab.runtime.planner.ready(spec, False).plan))
    walk.wait()
    inside = len(walk.seen.mounts())
    walk.abort()
    try:
        walk.result()
    except PyboxError:  # which says that it was killed
        pass
    left, now = set(os.listdir(where.state)) - before, len(read("/proc/self/mountinfo").splitlines())
    letter = "a" if left and now > mounts else "b" if now > mounts else "d" if left else "c"
    return Observed(
        letter,
        f"it had {inside} mounts; the host had {mounts} before and has {now}; directories left in {where.state}: {len(left)}",
    )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    answers: dict[str, str] = {}
    for line in rows(body):
        which, colon, words = line.partition(":")
        if not colon or which.strip() not in [str(n + 1) for n in range(len(_MISSING))]:
            raise Refused(f"a line is NUMBER: words, with a number from 1 to {len(_MISSING)}: {visible(line)}")
        answers[which.strip()] = words.strip()
    evidence, whole = _evidence(lab), lab.kept["whole"]
    assert isinstance(whole, Shot)
    for number, changes in enumerate(evidence, 1):
        words = answers.get(str(number), "")
        if not words:
            yield Finding(False, f"container {number}: no step is named")
            continue
        try:
            step = _found(lab, words)
            shot, holds = _made(lab, step)
        except Refused as refused:
            yield Finding(False, f"container {number}: {refused.message}")
            continue
        seen = difference(whole, shot)
        if seen == changes:
            yield Finding(not holds, f"container {number}: without {step.describe()} it looks just so")
        else:
            instead = "; ".join(str(change) for change in seen[:2]) or "nothing that /proc shows from outside"
            yield Finding(False, f"container {number}: without {step.describe()} one sees {instead}")


_RIGHT = [f"{number}: {words}" for number, words in enumerate(_MISSING, 1)]


def _swapped(number: int, words: str) -> str:
    return "\n".join([*_RIGHT[: number - 1], f"{number}: {words}", *_RIGHT[number:]])


LESSON = Lesson(
    number=12,
    name="broken",
    title="Broken containers",
    text="""\
A container is a list of steps, and each has an effect that the kernel shows: its post-condition. Leave one out, and one thing is
different, often without anything failing. Some holes in container runtimes were of that kind: a step was not there, or came too late,
or met something else than it expected.

Five containers were made now, each without one step of its plan, and held just before their command would have begun. Below is what
/proc shows of each that a whole container does not have. Find the step.

    pybox explain run --userns busybox true                     the plan of these containers
    pybox explain --step NUMBER run --userns busybox true       what one step is for
    pybox run --trace=state --rm --userns busybox true          what each step of a whole run changes""",
    question="A run is killed in the middle, all mounts of the container made, its command not yet started. What is left of it on the host?",
    choices=("its mounts, and its directory in pybox's state", "its mounts; the directory is removed", "nothing"),
    key="c",
    task="Name the missing steps, in the words of `pybox explain`; the beginning will do where it is the only such step.",
    kind="names",
    start="\n".join(f"{number}: " for number in range(1, len(_MISSING) + 1)),
    hint="Two of the differences are in /proc/PID/status, two in mountinfo, one in stat. Which step of a whole run makes that value?",
    solution="\n".join(_RIGHT),
    mutants=(
        Mutant(
            "capabilities are one set: what is kept is what can be had",
            _swapped(2, "keep 11 capabilities"),
            "container 2: without keep 11 capabilities one sees",
        ),
        Mutant("a mount that covers is a mount that protects", _swapped(4, "mount /proc/sys on itself"), "container 4"),
        Mutant("pivot_root makes the old root go", _swapped(3, "make it the root"), "there would be no container to look at"),
        Mutant("what hides a file forbids a call", _swapped(1, "cover /proc/keys"), "container 1: without cover /proc/keys"),
        Mutant("some step will be the one", "\n".join(_RIGHT[:4]), "container 5: no step is named"),
    ),
    experiment=_experiment,
    check=_check,
    reading=("namespaces(7)", "proc(5)"),
    code=("pybox/plan.py", "pybox/steps/base.py", "pybox/explain/analysis.py"),
    needs=("run",),
    shown=_shown,
)
