"""`pybox explain run|exec ...`: the plan, printed from the very steps that `run` or `exec` would walk.

Nothing is executed, but with --analyze, which runs it and puts times and what the kernel shows beside each step.
"""

from __future__ import annotations

import os

from pybox.cli.options import RUN, Option, parse
from pybox.cli.run import BACKGROUND, options_of, spec_of
from pybox.dirs import Dirs
from pybox.errors import SpecError
from pybox.explain.views import places, view, watched
from pybox.runtime import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.explain.views import Place
    from pybox.fastjson import Json
    from pybox.planner import Planned

EXPLAIN = (
    Option(("--step",), "", "all about one step: its lesson, its system calls, its man page", "NUMBER"),
    Option(("--code",), "", "where each step is written: what it is, who planned it, the C that does it"),
    Option(("--shell",), "", "the lines of unshare, mount and echo that do the same, to paste"),
    Option(("--analyze",), "", "run it; put times beside the steps, and whether the kernel shows their effect"),
    Option(("--format",), "", "json or text", "FORMAT"),
)
_SIDES = {"host": "on the host, before there is a process", "inside": "in the new process, between clone and exec"}


def explain(where: Dirs, words: list[str]) -> int:
    """Print the plan of the run that the words ask for."""
    parsed = parse(EXPLAIN, words)
    form = parsed.one("format") or "text"
    if form not in ("json", "text"):
        raise SpecError("format", form, "must be json or text")
    if parsed.rest[:1] not in (["run"], ["exec"]):
        raise SpecError(
            "explain", " ".join(parsed.rest), "must be followed by a run or exec", "pybox explain run -m 64M busybox true"
        )
    if parsed.rest[0] != "run" and (parsed.has("shell") or parsed.has("analyze")):
        raise SpecError("explain", parsed.rest[0], "--shell and --analyze are for run")
    if parsed.has("analyze"):
        from pybox.cli.analyze import analyze

        return analyze(where, parsed.rest[1:], form)
    (ready, image), code = _ready(where, parsed.rest, parsed.has("code"))
    if parsed.has("shell"):
        from pybox.explain.byhand import script

        print(script(ready.plan))
        return 0
    views = [view(*entry) for entry in ready.plan.steps()]
    for step, place in zip(views, code, strict=False):
        step["code"] = place.to_json()
    only = parsed.one("step")
    if only is not None:
        if not (only.isascii() and only.isdigit() and 1 <= int(only) <= len(views)):
            raise SpecError("step", only, f"must be between 1 and {len(views)}")
        views = [views[int(only) - 1]]
    if form == "json":
        document = {"schema": "pybox.plan/1", "image": image, "effective": dict(ready.plan.effective), "steps": views}
        import json

        print(json.dumps(document, indent=2))
    elif only is not None:
        print(_lesson(views[0]))
    else:
        print(f"PLAN  {image}: nothing was executed")
        for option, how in ready.plan.effective:
            print(f"      {option}: {how}")
        print(_table(views))
    return 0


def _ready(where: Dirs, words: list[str], with_code: bool) -> tuple[tuple[Planned, str], list[Place]]:
    plan_of = _run if words[0] == "run" else _exec
    if not with_code:
        return plan_of(where, words[1:]), []
    images: list[str] = []

    def make() -> Planned:
        ready, image = plan_of(where, words[1:])
        images.append(image)
        return ready

    ready, made = watched(make)
    return (ready, images[0]), places(ready.plan, made)


def _run(where: Dirs, words: list[str]) -> tuple[Planned, str]:
    asked = parse(RUN, words)
    spec, options = spec_of(asked), options_of(asked)
    managed = any(asked.values.get(key) for key in BACKGROUND)  # then its groups count, and it can be started again
    return Runtime(where).planner.plan(spec, options.keep or managed, managed), spec.image


def _exec(where: Dirs, words: list[str]) -> tuple[Planned, str]:
    from pybox import entering
    from pybox.cli.exec import EXEC, enter, visit_of

    asked = parse(EXEC, words)
    visit = visit_of(asked)
    entry, process = enter(where, asked.rest[0])
    os.close(process)
    assert entry.pid is not None
    ready = entering.prepare(Runtime(where), entry, entry.pid, visit)
    return ready, ready.given.image.name


def _table(views: list[dict[str, Json]]) -> str:
    lines, side = [], ""
    for step in views:
        if step["side"] != side:
            side = str(step["side"])
            lines += ["", f"{side}: {_SIDES[side]}"]
        lines.append(f"{step['number']:>4}  {step['describe']!s:<60} {step['man']}")
        if "code" in step:
            lines.append(f"      {_code(step)}")
            continue
        calls = step["calls"] if isinstance(step["calls"], list) else []
        first = str(calls[0]) if calls else ""
        more = f"  (+{len(calls) - 1} more)" if len(calls) > 1 else ""
        lines.append(f"      {first[:150]}{more}")
    return "\n".join([*lines, "", "One step in full: pybox explain --step NUMBER run ..."])


def _code(step: dict[str, Json]) -> str:
    code = step["code"]
    assert isinstance(code, dict) and isinstance(code["done"], list)
    words = (("is", code["step"]), ("planned by", code["planned"]), ("done by", " ".join(map(str, code["done"]))))
    return "  ".join(f"{word} {place}" for word, place in words if place)


def _lesson(step: dict[str, Json]) -> str:
    calls = step["calls"] if isinstance(step["calls"], list) else []
    lines = [f"{step['number']}. {step['describe']}", "", str(step["lesson"]), ""]
    lines += [f"    {call}" for call in calls]
    lines += ["", f"man page: {step['man']}"]
    return "\n".join([*lines, f"code: {_code(step)}"] if "code" in step else lines)
