"""Health checks on the command line: `pybox check ID`, which pybox-monitor runs, and `pybox wait --condition healthy`."""

from __future__ import annotations

from pybox import checking, views
from pybox.dirs import Dirs
from pybox.errors import SpecError, StateError
from pybox.runtime import Runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.listing import Entry

_PAUSE = 0.05  # seconds between two looks


def check(where: Dirs, words: list[str]) -> int:
    """Make one health check of a container. Not for people."""
    if len(words) != 1:
        raise SpecError("check", " ".join(words), "needs the id of a container")
    checking.check(Runtime(where), words[0])
    return 0


def wait_healthy(where: Dirs, condition: str | None) -> Callable[[Entry], str]:
    """Return what waits until a container is healthy. Raises SpecError for another condition."""
    from time import sleep

    if condition != "healthy":
        raise SpecError("condition", condition, "must be stopped or healthy")

    def wait(entry: Entry) -> str:
        while True:
            one = views.find(where, entry.identity)
            if not one.entry.alive:
                raise StateError(
                    f"container {entry.identity} is not running", f"it is {one.entry.status}; `pybox start` starts it"
                )
            if one.condition is None:
                raise StateError(f"container {entry.identity} is not checked", "`pybox run --health-cmd COMMAND` has it checked")
            if one.health == "healthy":
                return "healthy"
            sleep(_PAUSE)

    return wait
