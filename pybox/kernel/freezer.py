"""Stopping all processes of a container at once, and letting them go on. cgroups(7), Documentation/admin-guide/cgroup-v2 "cgroup.freeze"

Unlike SIGSTOP it is invisible: no parent is told, nothing inside can undo it. The cgroup2 group does it (on a hybrid host too);
where there is none, a group of the v1 freezer. Whether a container is paused, only the kernel knows: it is written nowhere else.
"""

from __future__ import annotations

import posix as os
from select import POLLPRI, poll
from time import monotonic, sleep

from pybox.errors import PyboxError, StateError
from pybox.host import keyed, read
from pybox.paths import exists, is_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.kernel.usage import Groups

PATIENCE = 10.0  # seconds; a process in an uninterruptible wait, a dead NFS server's say, freezes when that is over
_NO_GROUP = "start it detached (-d), or on a cgroup v2 host with any limit, e.g. --pids-limit 1000: that makes one"


def frozen(groups: Groups) -> bool:
    """Return whether all processes of a container stand still, as the kernel says. False when nobody can tell."""
    return any(_is_frozen(controller, path) for controller, path in groups)


def _is_frozen(controller: str, path: str) -> bool:
    if controller == "":
        return keyed(read(f"{path}/cgroup.events")).get("frozen") == 1
    return controller == "freezer" and read(f"{path}/freezer.state").strip() == "FROZEN"


def _handle(groups: Groups) -> tuple[str, str]:
    """Return (controller, directory) of the group that can be frozen. Raises StateError when there is none."""
    for controller, path in groups:
        if controller == "" and exists(f"{path}/cgroup.freeze"):
            return controller, path
    for controller, path in groups:
        if controller == "freezer":
            return controller, path
    lost = [path for controller, path in groups if controller == ""]
    if lost and not is_dir(lost[0]):
        raise StateError("it is not running any more: its control group is gone")
    if lost:
        raise StateError("this kernel's control groups can't be frozen", "Linux 5.2 or newer")
    raise StateError("it has no control group that could be frozen", _NO_GROUP)


def freeze(groups: Groups, patience: float = PATIENCE) -> None:
    """Stop all processes; returns when they stand still. Raises StateError, then all of them run."""
    controller, path = _handle(groups)
    try:
        _ask(controller, path, True)
        still = _until_frozen(controller, path, patience)
    except BaseException:  # a Ctrl-C too: half frozen is the one state that nobody asked for
        try:
            thaw(groups)
        except PyboxError:
            pass
        raise
    if not still:
        thaw(groups)
        raise StateError(
            f"not all of its processes stood still within {patience:g} seconds; it goes on",
            f"one of them is in an uninterruptible wait: state D in `pybox top`; its group is {path}",
        )


def thaw(groups: Groups) -> None:
    """Let all processes go on. Raises StateError."""
    _ask(*_handle(groups), False)


def _ask(controller: str, path: str, stop: bool) -> None:
    file, words = ("cgroup.freeze", ("0", "1")) if controller == "" else ("freezer.state", ("THAWED", "FROZEN"))
    try:
        fd = os.open(f"{path}/{file}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, words[stop].encode())
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise StateError("it is not running any more: its control group is gone") from None
    except OSError as error:
        raise PyboxError(f"write {words[stop]} to {path}/{file}: {error.strerror}") from None


def _until_frozen(controller: str, path: str, patience: float) -> bool:
    limit = monotonic() + patience
    if controller == "freezer":
        while not _is_frozen(controller, path):
            if monotonic() > limit:
                return False
            sleep(0.005)
            _ask(controller, path, True)  # v1 looks for processes that were born meanwhile when it is asked again
        return True
    try:
        fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StateError("it is not running any more: its control group is gone") from None
    try:
        watch = poll()
        watch.register(fd, POLLPRI)  # the kernel tells of each change of the file that was read
        while keyed(os.pread(fd, 4096, 0).decode()).get("frozen") != 1:
            left = limit - monotonic()
            if left <= 0:
                return False
            watch.poll(min(left, 1.0) * 1000)
        return True
    finally:
        os.close(fd)
