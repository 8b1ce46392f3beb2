"""`run --until STEP`: the plan cut after one step, and a shell in what is half made."""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.planner import Planned, ready_of
from pybox.steps.process import BecomeInit, CheckLeash, CloseFds, DieWithParent, Exec, PlaceFd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.plan import Plan
    from pybox.steps.base import ChildStep

SHELLS = ("/bin/bash", "/bin/sh", "/bin/busybox")


def row_of(plan: Plan, word: str) -> int:
    """Return the row of a step inside, by its number or by the name of its kind (the first of them). Raises SpecError."""
    names = {type(step).__name__.lower(): number for number, side, step in reversed(list(plan.steps())) if side == "inside"}
    number = names.get(word.lower().replace("_", ""), 0)
    if not number and word.isascii() and word.isdigit() and len(word) < 5:
        number = int(word)
    first, last = len(plan.prepare) + 1, len(plan.prepare) + len(plan.inside)
    if not first <= number <= last:
        raise SpecError(
            "until", word, f"must be {first} to {last}, or the name of a step", "`pybox explain run ...` has the numbers"
        )
    row = number - len(plan.prepare) - 1
    return min(row, next(row for row, step in enumerate(plan.inside) if isinstance(step, (BecomeInit, Exec))) - 1)


def cut(ready: Planned, word: str) -> Planned:
    """Return the plan up to a step, then a shell: of the image where the root has been changed, else of the host."""
    kept = list(ready.plan.inside[: row_of(ready.plan, word) + 1])
    tail: list[ChildStep] = []
    for at, slot in enumerate(("stdin", "stdout", "stderr")):
        tail.append(PlaceFd(slot, at))
    tail += [DieWithParent(), CheckLeash(), CloseFds(3)]
    done = {(type(step), getattr(step, "at", None)) for step in kept}
    kept += [step for step in tail if isinstance(step, CloseFds) or (type(step), getattr(step, "at", None)) not in done]
    kept = [step for step in kept if not (isinstance(step, PlaceFd) and step.at > 2)]  # pybox-init's
    if any(isinstance(step, CloseFds) for step in kept[:-1]):
        kept = [step for step in kept if not isinstance(step, (CheckLeash, CloseFds))] + [CloseFds(3)]
    env = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=xterm", f"PS1=(after {word}) # ")
    plan = ready.plan.replace(inside=(*kept, Exec(SHELLS, ("sh",), env)))
    given = ready.given.replace(spec=ready.given.spec.replace(init=False))
    return ready_of(given, plan, ready.asked)
