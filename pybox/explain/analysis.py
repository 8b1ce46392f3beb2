"""EXPLAIN ANALYZE: run a plan, and put beside each step when it was done and whether the kernel shows its effect.

The process is held at the gate before it becomes the command: all of the plan but the last is done, nothing of the image has run
yet, and the post-conditions are looked up in /proc with the clock of the steps stopped.
"""

from __future__ import annotations

from pybox.explain.stepping import Timed, Walk
from pybox.record import Record
from pybox.steps.process import BecomeInit, Exec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.fastjson import Json
    from pybox.plan import Plan
    from pybox.result import Result
    from pybox.runtime import Options
    from pybox.seen import Seen
    from pybox.spec import Spec
    from pybox.steps.base import Step


class Measured(Record):
    """One step: its times, and its post-condition. ``ok`` is None where nobody could look: the launch ended before."""

    timed: Timed
    ok: bool | None

    def to_json(self, begun: int) -> dict[str, Json]:
        """Return it as JSON shows it: microseconds since the first step, and its own."""
        timed = self.timed
        return {
            "number": timed.number,
            "at_us": (timed.begun - begun) / 1000,
            "took_us": (timed.done - timed.begun) / 1000,
            "ok": self.ok,
        }


class Analysis(Record):
    """A run with what was seen of it. ``result`` is None when it failed; then ``error`` says how."""

    identity: str
    steps: tuple[Measured, ...]
    result: Result | None
    error: BaseException | None
    failed: int = 0  # the number of the step that failed

    @property
    def begun(self) -> int:
        """When the first step began."""
        return self.steps[0].timed.begun if self.steps else 0


def last_row(plan: Plan) -> int:
    """Return the row before which all is made, and nothing of the image has run: that of pybox-init, or of the command."""
    return next(row for row, step in enumerate(plan.inside) if isinstance(step, (BecomeInit, Exec)))


def shows(step: Step, seen: Seen) -> bool:
    """Return whether the kernel shows the effect of a step; what is gone shows nothing."""
    try:
        return step.check(seen)
    except (OSError, ValueError):
        return False


def analyze(where: Dirs, spec: Spec, options: Options, plan: Plan, look: Callable[[Walk], object] | None = None) -> Analysis:
    """Run a container to its end and look at each of its steps. What the run raises is in the Analysis, except SpecError and the like.

    ``look`` is called while the process stands at the gate, for who wants to see more of it.
    """
    gate = last_row(plan)
    walk = Walk(where, spec, options, gate)
    judged: dict[int, bool] = {}
    try:
        if walk.wait() is not None:
            seen = walk.seen
            for number, _, step in walk.plan.steps():
                if number <= len(walk.plan.prepare) + gate:
                    judged[number] = shows(step, seen)
            if look is not None:
                look(walk)
            walk.go(0)
    except BaseException:
        walk.abort()
        raise
    result, error = None, None
    try:
        result = walk.result()
    except Exception as problem:
        error = problem
    trace = walk.recorder.trace()
    if not trace.steps and error is not None:
        raise error
    steps: list[Measured] = []
    held, stood = len(walk.plan.prepare) + gate, 0
    for timed in trace.steps:
        if timed.number > held:
            judged[timed.number] = error is None
            stood = stood or timed.begun - steps[-1].timed.done
        timed = timed.replace(begun=timed.begun - stood, done=timed.done - stood)
        steps.append(Measured(timed, judged.get(timed.number)))
    failed = 0
    if error is not None:
        reached = int(walk.recorder.report.index)
        failed = len(walk.plan.prepare) + reached + 1 if walk.recorder.report.begun else len(steps) + 1
    return Analysis(walk.recorder.identity, tuple(steps), result, error, failed)
