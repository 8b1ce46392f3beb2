"""A health check: one more command in a container, whose exit status says whether it still does its work.

pybox-monitor starts `pybox check ID` every now and then (csrc/monitor_health.c), so nothing of Python stays in memory between two
checks. The command is executed as `pybox exec` would do it, but born in a control group of its own below the container's: when it
has ended, or its time is over, whatever it has left running is killed, and nothing else is.
"""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic, time

from pybox import entering, health, kept, listing, live, native
from pybox.dirs import Dirs
from pybox.entering import Visit
from pybox.errors import PyboxError
from pybox.health import OUTPUT, TIMED_OUT, Check
from pybox.kept import Health
from pybox.listing import Entry
from pybox.result import verdict
from pybox.runtime import Runtime
from pybox.steps.base import Desk
from pybox.undo import kill_group, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_GROUP = "pybox-check"


def _runs(dirs: Dirs, identity: str) -> bool:
    entry = listing.load(dirs, identity, "")
    return entry is not None and entry.status == "running"  # a frozen one can't answer, and is not ill


def check(runtime: Runtime, identity: str) -> Check | None:
    """Make one check of a container and write down what came of it; None when there is nothing to be checked now."""
    dirs = runtime.dirs
    entry = listing.load(dirs, identity, "")
    what = kept.load(dirs, identity)
    wanted = what.health if what is not None else None
    if entry is None or entry.status != "running" or wanted is None or not wanted.command:
        return None
    begun = time()
    try:
        made = _ask(runtime, entry, wanted)
    except (PyboxError, OSError) as error:  # the command can't be executed: that is what there is to be told
        code = error.exit_code if isinstance(error, PyboxError) else 125
        made = Check(begun, time(), code, error.message if isinstance(error, PyboxError) else str(error))
    if made.exit_code == TIMED_OUT and not _runs(dirs, identity):
        return None
    started = entry.journal.get("started")
    condition = health.load(entry.path).after(made, wanted, float(started) if isinstance(started, (int, float)) else 0.0)
    try:
        health.save(entry.path, condition)
    except FileNotFoundError:  # it has ended, and is forgotten
        return None
    return made


def _ask(runtime: Runtime, entry: Entry, wanted: Health) -> Check:
    process = live.pidfd(entry)
    assert entry.pid is not None
    desk = Desk(entry.identity, runtime.reuse)
    group = ""
    try:
        group, entry = _own_group(entry)
        ready = entering.prepare(runtime, entry, entry.pid or 0, Visit(args=wanted.command))
        runtime.make_once(ready)
        reader, desk.fds["output"] = os.pipe2(os.O_CLOEXEC)
        try:
            desk.fds["null"] = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            to = ready.owner
            if to is not None:
                os.fchown(desk.fds["output"], *to)
            begun = time()
            streams = {"stdin": desk.fds["null"], "stdout": desk.fds["output"], "stderr": desk.fds["output"]}
            child, leash = runtime.clone(ready, desk, {"process": process, **streams})
            try:
                return _listen(child, reader, wanted.timeout, begun, group)
            finally:
                os.close(child.pidfd)
                if leash >= 0:
                    os.close(leash)
        finally:
            os.close(reader)
    finally:
        desk.close()
        os.close(process)
        if group:
            undo("group", group)


def _own_group(entry: Entry) -> tuple[str, Entry]:
    """Make a group for the check below the container's; returns it, and the container as if that were its group.

    "" where there is none of cgroup v2: a plain user's. There only the process group of the check is known.
    """
    group = dict(entry.groups).get("")
    if group is None:
        return "", entry
    mine = f"{group}/{_GROUP}"
    undo("group", mine)  # of a check that was killed
    try:
        os.mkdir(mine)
    except PermissionError:
        return "", entry
    pairs: list[Json] = [[controller, path if controller else mine] for controller, path in entry.groups]
    return mine, entry.replace(journal={**entry.journal, "groups": pairs})


def _listen(child: native.Child, reader: int, timeout: float, begun: float, group: str) -> Check:
    """Read what the check writes until it ends, or its time is over."""
    output = bytearray()
    deadline = monotonic() + timeout
    watch = poll()
    watch.register(child.pidfd, POLLIN)
    watch.register(reader, POLLIN)
    os.set_blocking(reader, False)
    ended = False
    try:
        while not ended and (left := deadline - monotonic()) > 0:
            ready = dict(watch.poll(left * 1000 + 1))
            ended = child.pidfd in ready
            if reader in ready and not _take(reader, output):
                watch.unregister(reader)
        while ended and len(output) < OUTPUT and _take(reader, output):
            pass  # its children may write for ever
    finally:
        _kill(child.pid, group)
        usage = native.wait(child.pid)
    text = output.decode(errors="replace")
    if not ended:
        late = f"the check took longer than {timeout:g} seconds"
        return Check(begun, time(), TIMED_OUT, f"{late}: {text}" if text else late)
    return Check(begun, time(), verdict(usage.status, False, 0)[1], text)


def _take(reader: int, output: bytearray) -> bool:
    """Read some of the output, keep its beginning; False when there is nothing now, or will be no more of it."""
    try:
        part = os.read(reader, 1 << 16)
    except BlockingIOError:
        return False
    output += part[: OUTPUT - len(output)]
    return bool(part)


def _kill(pid: int, group: str) -> None:
    """Kill what is left of the check. Its process is not reaped yet, so its number is its own."""
    if group:
        try:
            kill_group(group)
        except OSError:
            pass
    for target in (-pid, pid):
        try:
            os.kill(target, 9)
        except (ProcessLookupError, PermissionError):
            pass
