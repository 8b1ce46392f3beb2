"""`pybox pause`, `unpause`, `update`: running containers held, let go on, given other limits."""

from __future__ import annotations

from pybox import host
from pybox.cli.main import complain
from pybox.cli.options import RUN, Parsed, parse_anywhere
from pybox.errors import PyboxError, SpecError, StateError
from pybox.kernel import freezer, relimit
from pybox.live import running
from pybox.spec import Limits
from pybox.units import parse_bytes, parse_cpus, parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.kernel.usage import Groups

_CHANGEABLE = ("memory", "memory-swap", "cpus", "cpu-shares", "cpuset-cpus", "pids-limit")
UPDATE = tuple(option for option in RUN if option.key in _CHANGEABLE)
_PIDS_MOST = 1 << 22  # the kernel's own ceiling: what -1, docker's word for unlimited, comes to


def pause(where: Dirs, words: list[str]) -> int:
    """Freeze containers."""

    def freeze(groups: Groups) -> None:
        if freezer.frozen(groups):
            raise StateError("it is paused already")
        freezer.freeze(groups)

    return _each(where, "pause", words, freeze)


def unpause(where: Dirs, words: list[str]) -> int:
    """Let frozen containers go on."""

    def thaw(groups: Groups) -> None:
        if not freezer.frozen(groups):
            raise StateError("it is not paused")
        freezer.thaw(groups)

    return _each(where, "unpause", words, thaw)


def update(where: Dirs, words: list[str]) -> int:
    """Change the limits of containers."""
    parsed = parse_anywhere(UPDATE, words)
    if not parsed.values:
        raise SpecError("update", "", "no limit given", "one of " + " ".join(option.names[-1] for option in UPDATE))
    facts = host.probe()
    limits_of(parsed, 512 << 10)  # nonsense is told before the first container is touched
    return _each(
        where,
        "update",
        parsed.rest,
        lambda groups: relimit.apply(groups, limits_of(parsed, relimit.current_memory(groups)), facts),
    )


def limits_of(parsed: Parsed, memory: int | None) -> Limits:
    """Return the limits that the words ask for; --memory-swap alone is meant beside the memory limit that holds. Raises SpecError."""
    swap, pids = parsed.one("memory-swap"), parsed.one("pids-limit")
    asked = parse_bytes("memory", parsed.one("memory"))
    return Limits(
        memory=memory if asked is None and swap is not None else asked,
        memory_swap=-1 if swap == "-1" else parse_bytes("memory-swap", swap),
        cpus=parse_cpus("cpus", parsed.one("cpus")),
        cpu_shares=parse_int("cpu-shares", parsed.one("cpu-shares"), 2, 262144),
        cpuset_cpus=parsed.one("cpuset-cpus"),
        pids=_PIDS_MOST if pids == "-1" else parse_int("pids-limit", pids, 1, _PIDS_MOST),
    )


def _each(where: Dirs, verb: str, words: list[str], act: Callable[[Groups], None]) -> int:
    """Do it to each container and print its id; one that refuses does not stop the others. Raises SpecError."""
    if not words:
        raise SpecError(verb, "", "no container given", "`pybox ps` lists those that run")
    status = 0
    for word in words:
        try:
            entry = running(where, word)
            try:
                act(entry.groups)
            except PyboxError as error:
                error.message = f"cannot {verb} container {entry.identity}: {error.message}"
                raise
            print(entry.identity)
        except PyboxError as error:
            status = complain(error)
    return status
