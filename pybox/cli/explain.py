"""`pybox explain run|exec ...`: the plan, printed from the very steps that `run` or `exec` would walk. Nothing is executed."""

from __future__ import annotations

import inspect
import json
import os

from pybox.cli.options import RUN, Option, parse
from pybox.cli.run import BACKGROUND, options_of, spec_of
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.plan import Plan
from pybox.runtime import Runtime
from pybox.steps.base import HostStep, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_EXPLAIN = (
    Option(("--format",), "", "json or text", "FORMAT"),
    Option(("--step",), "", "say all about one step", "NUMBER"),
)
_SIDES = {"host": "on the host, before there is a process", "inside": "in the new process, between clone and exec"}


def view(number: int, side: str, step: Step) -> dict[str, Json]:
    """Return one step as JSON shows it; CONTAINER-ID stands for the id, <name> for an fd."""
    return {
        "number": number,
        "side": side,
        "step": type(step).__name__,
        "describe": step.describe(),
        "calls": list(step.calls()),
        "man": step.man,
        "lesson": inspect.getdoc(type(step)) or "",
        "leaves": [list(leaf) for leaf in step.leaves()] if isinstance(step, HostStep) else [],
    }


def explain(where: Dirs, words: list[str]) -> int:
    """Print the plan of the run that the words ask for."""
    parsed = parse(_EXPLAIN, words)
    form = parsed.one("format") or "text"
    if form not in ("json", "text"):
        raise SpecError("format", form, "must be json or text")
    if parsed.rest[:1] not in (["run"], ["exec"]):
        raise SpecError(
            "explain", " ".join(parsed.rest), "must be followed by a run or exec", "pybox explain run -m 64M busybox true"
        )
    plan, image = (_run if parsed.rest[0] == "run" else _exec)(where, parsed.rest[1:])
    views = [view(*entry) for entry in plan.steps()]
    only = parsed.one("step")
    if only is not None:
        if not (only.isascii() and only.isdigit() and 1 <= int(only) <= len(views)):
            raise SpecError("step", only, f"must be between 1 and {len(views)}")
        views = [views[int(only) - 1]]
    if form == "json":
        document = {
            "schema": "pybox.plan/1",
            "image": image,
            "effective": dict(plan.effective),
            "steps": views,
        }
        print(json.dumps(document, indent=2))
    elif only is not None:
        print(_lesson(views[0]))
    else:
        print(f"PLAN  {image}: nothing was executed")
        for option, how in plan.effective:
            print(f"      {option}: {how}")
        print(_table(views))
    return 0


def _run(where: Dirs, words: list[str]) -> tuple[Plan, str]:
    asked = parse(RUN, words)
    spec, options = spec_of(asked), options_of(asked)
    managed = any(asked.values.get(key) for key in BACKGROUND)  # then its groups count, and it can be started again
    return Runtime(where).planner.plan(spec, options.keep or managed, managed).plan, spec.image


def _exec(where: Dirs, words: list[str]) -> tuple[Plan, str]:
    from pybox import entering
    from pybox.cli.exec import EXEC, enter, visit_of

    asked = parse(EXEC, words)
    visit = visit_of(asked)
    entry, process = enter(where, asked.rest[0])
    os.close(process)
    assert entry.pid is not None
    ready = entering.prepare(Runtime(where), entry, entry.pid, visit)
    return ready.plan, ready.given.image.name


def _table(views: list[dict[str, Json]]) -> str:
    lines, side = [], ""
    for step in views:
        if step["side"] != side:
            side = str(step["side"])
            lines += ["", f"{side}: {_SIDES[side]}"]
        calls = step["calls"] if isinstance(step["calls"], list) else []
        first = str(calls[0]) if calls else ""
        more = f"  (+{len(calls) - 1} more)" if len(calls) > 1 else ""
        lines.append(f"{step['number']:>4}  {step['describe']!s:<60} {step['man']}")
        lines.append(f"      {first[:150]}{more}")
    return "\n".join([*lines, "", "One step in full: pybox explain --step NUMBER run ..."])


def _lesson(step: dict[str, Json]) -> str:
    calls = step["calls"] if isinstance(step["calls"], list) else []
    lines = [f"{step['number']}. {step['describe']}", "", str(step["lesson"]), ""]
    lines += [f"    {call}" for call in calls]
    return "\n".join([*lines, "", f"man page: {step['man']}"])
