"""`pybox explain --analyze run ...`: the plan with what really happened beside each step."""

from __future__ import annotations

import json
import os

from pybox.cli.foreground import sweep
from pybox.cli.options import RUN, parse
from pybox.cli.run import BACKGROUND, options_of, spec_of
from pybox.cli.table import visible
from pybox.errors import SpecError
from pybox.explain.analysis import Analysis
from pybox.explain.analysis import analyze as measure
from pybox.explain.views import view
from pybox.runtime import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.explain.stepping import Walk
    from pybox.plan import Plan
    from pybox.planner import Planned
    from pybox.spec import Spec

_MARK = {True: "ok", False: "NOT SHOWN", None: "-"}


def measured(
    where: Dirs, words: list[str], stdout: int | None, look: Callable[[Walk], object] | None = None
) -> tuple[Spec, Planned, Analysis]:
    """Make a run and look at it. Returns (what was asked, its plan, what was seen). Raises SpecError and the like before it."""
    asked = parse(RUN, words)
    if any(asked.values.get(key) for key in BACKGROUND):
        raise SpecError("run", "", "can be measured in the foreground only, without -d and -t")
    spec, options = spec_of(asked), options_of(asked).replace(stdout=stdout)
    runtime = Runtime(where)
    sweep(runtime)
    ready = runtime.planner.plan(spec, options.keep)
    return spec, ready, measure(where, spec, options, ready.plan, look)


def analyze(where: Dirs, words: list[str], form: str) -> int:
    """Run it, and print the plan with times and what the kernel shows; what the command prints goes to stderr.

    Returns 0 when it ran and each step showed its effect, whatever the command's status; else 1. Raises what the run raised.
    """
    spec, ready, found = measured(where, words, stdout=2)
    plan = ready.plan
    if form == "json":
        print(json.dumps(_document(spec.image, plan, found), indent=2))
    else:
        print(_text(spec.image, plan, found))
    if found.error is not None:
        raise found.error
    return 0 if all(step.ok for step in found.steps) else 1


def _document(image: str, plan: Plan, found: Analysis) -> dict[str, object]:
    measured = {step.timed.number: step.to_json(found.begun) for step in found.steps}
    steps = [{**view(*entry), **measured.get(entry[0], {})} for entry in plan.steps()]
    return {
        "schema": "pybox.analysis/1",
        "image": image,
        "id": found.identity,
        "steps": steps,
        "result": None if found.result is None else found.result.to_json(),
    }


def _text(image: str, plan: Plan, found: Analysis) -> str:
    measured = {step.timed.number: step for step in found.steps}
    slow = sorted(found.steps, key=lambda step: step.timed.begun - step.timed.done)[:3]
    lines = [f"RAN   {image}: container {found.identity}", f"{'':>4}  {'at':>10}  {'took':>10}  shown  step"]
    total, side = 0, ""
    for number, where, step in plan.steps():
        if where != side:
            side = where
            lines.append(f"      {side}")
        one = measured.get(number)
        if one is None:
            why = "FAILED" if number == found.failed else "not reached"
            lines.append(f"{number:>4}  {'':>10}  {'':>10}  -      {visible(step.describe())}: {why}")
            continue
        took = one.timed.done - one.timed.begun
        total += took
        note = "   <- slowest" if one is slow[0] else "   <- slow" if one in slow else ""
        lines.append(
            f"{number:>4}  {(one.timed.begun - found.begun) / 1e6:>7.2f} ms  {took / 1000:>7.0f} us  {_MARK[one.ok]:<5}"
            f"  {visible(step.describe())}{note}"
        )
    lines += [
        "",
        f"{len(found.steps)} steps, {total / 1e6:.2f} ms in all; {sum(bool(step.ok) for step in found.steps)} shown by the kernel",
    ]
    if found.result is not None:
        result = found.result
        lines.append(f"the command ended: {result.reason}, exit status {result.exit_code}, {result.wall * 1000:.1f} ms")
    return os.linesep.join(lines)
