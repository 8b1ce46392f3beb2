"""Views: the stacked layers of a container that does not run, or of its image alone, held open for a moment.

A short plan with the steps of a run: its mount namespace is entered by nobody and belongs to a pybox-init that waits to be
killed. What is had of it is an fd of the stack's root, so the host's own namespace never sees a mount.
"""

from __future__ import annotations

import os

from pybox import native
from pybox.errors import StateError
from pybox.kernel import namespaces, rootfs
from pybox.kernel.inputs import Inputs
from pybox.lowering import Table
from pybox.record import Record
from pybox.steps.base import ChildStep, Desk
from pybox.steps.images import ShowLayers
from pybox.steps.mounts import MountKernelFs, PrivateMounts
from pybox.steps.places import GoTo, MakeDirectory
from pybox.steps.process import CheckLeash, Clone, DieWithParent, EnterUserNamespace, Exec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_INIT = os.path.join(os.path.dirname(os.path.abspath(native.__file__)), "pybox-init")
_QUIET = ("MS_NOSUID", "MS_NODEV", "MS_NOEXEC")


class Held(Record):
    """A view that is held open: ``root`` is an O_PATH fd of its root, ``userns`` of its user namespace (-1: the caller's own)."""

    root: int
    userns: int
    child: native.Child

    def close(self) -> None:
        """Let go of it. The mounts are gone when this returns."""
        os.close(self.root)
        if self.userns >= 0:
            os.close(self.userns)
        end(self.child)


def end(child: native.Child) -> None:
    """Kill a holder and wait for it."""
    from signal import SIGKILL, pidfd_send_signal

    pidfd_send_signal(child.pidfd, SIGKILL)
    os.close(child.pidfd)
    native.wait(child.pid)


def container(given: Inputs, identity: str) -> Held:
    """Hold the root of a container that does not run, writable; the caller has its lock. Raises StepFailed, LimitError."""
    return _hold(given, identity, tuple(rootfs.stack(given)), given.disk)


def disk(given: Inputs, identity: str) -> Held:
    """Hold the writable layer itself, where it is a file system of its own, as a directory. Raises StepFailed, LimitError."""
    from pybox.steps.disk import MountDisk

    place = f"uppers/{identity}"
    rows = (PrivateMounts(), GoTo(given.dirs.store), MountDisk(given.dirs.disk(identity), place), GoTo(f"{place}/u"))
    return _hold(given.replace(spec=given.spec.replace(userns=False)), identity, rows, disk=True)


def image(given: Inputs) -> Held:
    """Hold the root of a container's image, without the container's own layer. Raises StepFailed."""
    return _hold(given, "0" * 12, tuple(_layers(given)))


def _layers(given: Inputs) -> Iterator[ChildStep]:
    yield PrivateMounts()
    yield GoTo(given.dirs.store)
    yield MountKernelFs("tmpfs", "scratch", _QUIET, "mode=0755")
    yield MakeDirectory("scratch/empty")
    below = yield from rootfs.layers(given, given.image.layers)
    yield ShowLayers(("scratch/empty", *below), "", "", userxattr=not given.facts.root)
    yield GoTo("mnt")


def _hold(given: Inputs, identity: str, rows: tuple[ChildStep, ...], disk: bool = False) -> Held:
    desk = Desk(identity, {})
    if disk:
        from pybox.steps.disk import AttachDisk

        AttachDisk(f"{given.dirs.uppers}/{identity}").apply(desk)
    try:
        return _launch(given, identity, rows, desk)
    finally:
        if disk:
            os.close(desk.fds["disk"])  # the mount, if there is one, has it now


def _launch(given: Inputs, identity: str, rows: tuple[ChildStep, ...], desk: Desk) -> Held:
    if given.userns:
        desk.reuse["program"] = native.seal("pybox-init", native.init_program())
        try:
            for step in namespaces.prepare(given):
                step.apply(desk)
        finally:
            os.close(desk.reuse["program"])
    # root maps the layers from outside; a plain user has the right to mount only as a citizen
    citizen = given.userns and not given.facts.root
    birth = (Clone(()), EnterUserNamespace(), Clone(("CLONE_NEWNS",), sibling=True)) if citizen else (Clone(("CLONE_NEWNS",)),)
    # pybox-init sees to it too that it dies with us, but only when it has come so far; its only variable says who we are
    plan = (*birth, *rows, DieWithParent(), CheckLeash(), Exec((_INIT,), ("pybox-init",), (str(os.getpid()),)))
    table = Table()
    for each in plan:
        each.lower(table)
    userns = desk.fds.get("userns", -1)
    owner = os.pidfd_open(os.getpid())
    try:
        child = native.launch(table.program(), identity, {**desk.fds, "owner": owner}, (-1, -1), False)
    finally:
        os.close(owner)
    if isinstance(child, native.Failure):
        from pybox.failures import launch_error

        if userns >= 0:
            os.close(userns)
        raise launch_error(plan[child.index], child, given)
    try:
        return Held(os.open(f"/proc/{child.pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), userns, child)
    except OSError as error:
        end(child)
        raise StateError(f"the files of container {identity} can't be opened: {error.strerror}") from None
