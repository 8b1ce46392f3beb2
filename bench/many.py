"""Some hundred containers at once: start, list, stop, remove, and what is left of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import meter
from engines import DAEMONS, Engine

from bench import Failed

LISTINGS = 5


@dataclass(frozen=True)
class Crowd:
    """How a crowd of containers fared. Seconds are wall clock, for all of them."""

    count: int
    start: float
    listed: int
    ps: float  # milliseconds of the command's own CPU, median
    stop: float
    remove: float
    errors: tuple[str, ...]
    left: tuple[str, ...]  # what was there afterwards and not before


def crowd(engine: Engine, count: int) -> Crowd:
    """Start, list, stop and remove many containers of one engine."""
    errors: list[str] = []
    before = _there(engine)

    def timed(act: Callable[[], object]) -> float:
        begin = time.monotonic()
        try:
            act()
        except Failed as why:
            errors.append(str(why))
        return time.monotonic() - begin

    start = sum(timed(engine.sleeper) for _ in range(count))
    names = list(engine.known)
    listed, ps = 0, 0.0
    try:
        listed = len(engine.call("ps", "-q").split())
        ps = statistics.median(engine.spend("ps") for _ in range(LISTINGS))
    except Failed as why:
        errors.append(str(why))
    stop = timed(lambda: engine.call("stop", "-t", "0", *names))
    remove = timed(lambda: engine.call("rm", *names))
    engine.known = []
    time.sleep(1)
    after = _there(engine)
    left = tuple(f"{after[what] - before[what]} {what}" for what in after if after[what] > before[what])
    return Crowd(count, start, listed, ps, stop, remove, tuple(errors), left)


def _there(engine: Engine) -> dict[str, int]:
    """Count what containers could leave."""
    pids = engine.group.processes()
    found = {"processes": sum(len(sizes) for name, sizes in meter.pss(pids).items() if name not in DAEMONS)}
    found["control groups"] = engine.group.below()
    found["mounts"] = meter.mounts_below("")
    if engine.name == "pybox":
        state, store = os.environ["PYBOX_STATE"], os.environ["PYBOX_STORE"]
        folders = {"records": state, "names": f"{state}/names", "kept": f"{store}/containers", "layers": f"{store}/uppers"}
        found.update({what: _entries(folder) for what, folder in folders.items()})
    return found


def _entries(folder: str) -> int:
    try:
        return len(os.listdir(folder))
    except FileNotFoundError:
        return 0
