"""New limits for a container that runs: the files and values are those of its start (cgroup.values), only the order differs.

All or nothing: what was written before a refusal is written back. The kernel may refuse a limit below what is in use; where it would
rather kill for it (memory.max of cgroup v2), pybox refuses.
"""

from __future__ import annotations

import os

from pybox.errors import LimitError
from pybox.host import Facts, keyed, read
from pybox.kernel import cgroup
from pybox.record import Record
from pybox.spec import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.kernel.usage import Groups


class Change(Record):
    """One file of a control group to be written."""

    path: str
    value: str
    option: str  # that asked for it


def changes(groups: Groups, limits: Limits, facts: Facts) -> tuple[Change, ...]:
    """Return what is to be written, in order. Raises LimitError for a limit that no group of the container has."""
    found, held = [], set()
    for controller, path in groups:
        for name, value, option, optional in cgroup.values(controller, limits, facts):
            if os.path.exists(f"{path}/{name}"):
                found.append(Change(f"{path}/{name}", value, option))
                held.add(option)
            elif optional:
                held.add(option)
    for controller, option in cgroup.needed(limits):
        if option not in held:
            raise LimitError(
                f"cannot change {option}: the container has no control group with the controller {controller}",
                f"only a container that was started with a limit of {controller}, or detached (-d), has one",
            )
    return _in_order(found)


def _in_order(found: list[Change]) -> tuple[Change, ...]:
    """Put memory.memsw first when memory grows beyond it: of v1's two limits memory must be the smaller one at all times."""
    names = [change.path.rsplit("/", 1)[-1] for change in found]
    if "memory.limit_in_bytes" not in names:
        return tuple(found)
    memory = names.index("memory.limit_in_bytes")
    folder = found[memory].path.rsplit("/", 1)[0]
    together = read(f"{folder}/memory.memsw.limit_in_bytes").strip()
    if not together.isdigit() or int(found[memory].value) <= int(together):
        return tuple(found)
    if "memory.memsw.limit_in_bytes" not in names:
        raise LimitError(
            f"cannot raise --memory to {found[memory].value}: memory and swap together are limited to {together}",
            "give --memory-swap too",
        )
    swap = names.index("memory.memsw.limit_in_bytes")
    found[memory], found[swap] = found[swap], found[memory]
    return tuple(found)


def apply(groups: Groups, limits: Limits, facts: Facts) -> None:
    """Write the new limits. Raises LimitError; then the old ones hold."""
    done: list[tuple[str, str]] = []
    for change in changes(groups, limits, facts):
        before = read(change.path).strip()
        try:
            _refuse_to_kill(change, facts.cgroups.swap)
            _write(change.path, change.value)
        except (OSError, LimitError) as error:
            for path, value in reversed(done):
                try:
                    _write(path, value)
                except OSError:
                    pass
            raise error if isinstance(error, LimitError) else _refused(change, error) from None
        done.append((change.path, before))


def _refuse_to_kill(change: Change, swap: bool) -> None:
    """Raise LimitError when memory.max would be below what can't be taken back: the kernel would kill until it fits."""
    if not change.path.endswith("/memory.max") or not change.value.isdigit():
        return
    folder = change.path.rsplit("/", 1)[0]
    used = keyed(read(f"{folder}/memory.stat"))
    swappable = swap and read(f"{folder}/memory.swap.max").strip() not in ("", "0")
    fixed = used.get("unevictable", 0) if swappable else used.get("anon", 0) + used.get("shmem", 0)
    if fixed > int(change.value):
        raise _in_use(change, fixed)


def _refused(change: Change, error: OSError) -> LimitError:
    folder, _, name = change.path.rpartition("/")
    if name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") and error.errno == 16:  # EBUSY
        used = read(f"{folder}/{name.replace('limit', 'usage')}").strip()
        return _in_use(change, int(used) if used.isdigit() else None)
    cause = {
        13: "not within what its parent group allows",  # EACCES, of cpuset
        22: "the kernel does not take this value",
        28: "the group would be left without a CPU",  # ENOSPC, of cpuset
        34: "out of range: no such CPU?",  # ERANGE
    }.get(error.errno or 0, "")
    return LimitError(
        f"cannot change {change.option}: write {change.value} to {change.path}: {error.strerror}"
        + (f": {cause}" if cause else ""),
        "its limits are what they were",
    )


def _in_use(change: Change, used: int | None) -> LimitError:
    known = used is not None and used > int(change.value)  # what was in use has been taken back since, in part
    amount = (
        f"{used} bytes are in use and can't be taken back" if known else "the kernel could not take back enough of what is in use"
    )
    return LimitError(
        f"cannot lower {change.option} to {change.value}: {amount}", "let the command free memory first, or stop it"
    )


def current_memory(groups: Groups) -> int | None:
    """Return the memory limit in bytes that holds now, None for none: --memory-swap alone is meant beside it."""
    from pybox.kernel.usage import account

    return account(groups).memory_limit


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
