"""One step as others see it: as JSON, as a lesson, and where its code is.

Code places come from the code: who made a step is noted while the plan is made, by the interpreter's own profile hook.
"""

from __future__ import annotations

import os
import sys
from struct import iter_unpack

from pybox import native
from pybox.steps.base import HostStep, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from pybox.fastjson import Json
    from pybox.plan import Plan
    from pybox.planner import Planned

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Place:
    """Where the code of one step is: the class that says what it is, the line that put it into the plan, the C that does it."""

    def __init__(self, kind: str, planned: str, done: tuple[str, ...]) -> None:
        self.kind, self.planned, self.done = kind, planned, done

    def to_json(self) -> dict[str, Json]:
        """Return it as JSON shows it: FILE:LINE each."""
        return {"step": self.kind, "planned": self.planned, "done": list(self.done)}


def view(number: int, side: str, step: Step) -> dict[str, Json]:
    """Return one step as JSON shows it; CONTAINER-ID stands for the id, <name> for an fd."""
    return {
        "number": number,
        "side": side,
        "step": type(step).__name__,
        "describe": step.describe(),
        "calls": list(step.calls()),
        "man": step.man,
        "lesson": lesson(type(step)),
        "leaves": [list(leaf) for leaf in step.leaves()] if isinstance(step, HostStep) else [],
    }


def lesson(kind: type) -> str:
    """Return the docstring of a step, as inspect.getdoc does; that module is a third of what `explain` would import."""
    first, *more = (kind.__doc__ or "").strip().split("\n")
    return "\n".join([first, *(line.removeprefix("    ") for line in more)])


def watched(make: Callable[[], Planned]) -> tuple[Planned, dict[int, str]]:
    """Make a plan, and note for each step, by its id(), which line of pybox put it there."""
    made: dict[int, str] = {}

    def called(frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or frame.f_code.co_name != "__init__" or frame.f_back is None:
            return
        step = frame.f_locals.get("self")
        if isinstance(step, Step):
            made[id(step)] = _place(frame.f_back.f_code.co_filename, frame.f_back.f_lineno)

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        ready = make()
    finally:
        sys.setprofile(before)
    return ready, made


def places(plan: Plan, made: dict[int, str]) -> list[Place]:
    """Return where the code of each step is, in the order of the plan."""
    rows = [row[0] for row in _rows(plan.lower())]
    functions = _c_functions()
    found = []
    for number, side, step in plan.steps():
        done: tuple[str, ...]
        if side == "host":
            done = (_where(type(step), "apply"),)
        else:
            done = tuple(functions.get(rows[number - len(plan.prepare) - 1], ()))
        found.append(Place(_where(type(step)), made.get(id(step), ""), done))
    return found


def _rows(program: native.Program) -> list[tuple[int, ...]]:
    return list(iter_unpack(native.ROW, program.rows))


def _where(kind: type, method: str = "") -> str:
    import inspect

    target = getattr(kind, method) if method else kind
    file = inspect.getsourcefile(target) or ""
    return _place(file, inspect.getsourcelines(target)[1])


def _place(file: str, line: int) -> str:
    return f"{os.path.relpath(file, os.path.dirname(PACKAGE))}:{line}"


def _c_functions() -> dict[int, tuple[str, ...]]:
    """Return FILE:LINE of the C function of each op; nothing where pybox is installed without its C sources."""
    folder = os.path.join(os.path.dirname(PACKAGE), "csrc")
    names: dict[str, str] = {}
    defined: dict[str, str] = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if not file.endswith(".c"):
            continue
        with open(os.path.join(folder, file), encoding="utf-8") as source:
            for number, line in enumerate(source, 1):
                word = line.strip()
                if word.startswith("[PB_") and " = " in word:  # the table PB_DO
                    op, _, function = word.rstrip(",").partition("] = ")
                    names[op.lstrip("[")] = function
                elif line[:1].isalpha() and "(" in line and not line.rstrip().endswith(";"):
                    defined.setdefault(line.partition("(")[0].split()[-1].lstrip("*"), f"csrc/{file}:{number}")
    names |= {"PB_CLONE": "pb_clone3"}
    return {native.number(op): (defined[name],) for op, name in names.items() if name in defined}
