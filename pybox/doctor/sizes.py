"""Doctor on --storage-size: what limits a writable layer here, in memory and on disk, found by filling one."""

from __future__ import annotations

import os

from pybox.doctor.files import not_tried
from pybox.doctor.item import Item
from pybox.doctor.session import Host
from pybox.doctor.trial import attempt, mount, unshare
from pybox.errors import LimitError
from pybox.record import Record
from pybox.steps import disk, quota
from pybox.steps.base import Desk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json

_SIZE = 1 << 20  # bytes


class Sizes(Record):
    """What limits writable layers, or why nothing does."""

    memory: bool  # a layer can be in memory, where it has a size
    root: bool
    no_quota: str = ""
    no_loop: str = ""
    fix: str = ""


def sizes(host: Host) -> Item:
    """Ask for project quotas; without them, make a disk in a file and write more than it holds, in a mount namespace of a child."""
    if not host.scratch:
        return not_tried("storage-size", "storage size")
    seen = Sizes(host.facts.root or host.facts.tmpfs_user_xattr, host.facts.root)
    if seen.root:
        seen = seen.replace(no_quota=quota.problem(host.dirs.uppers))
        if seen.no_quota:
            no_loop, fix = _filled(f"{host.scratch}/sizes")
            seen = seen.replace(no_loop=no_loop, fix=fix)
    return judge_sizes(seen)


def _filled(path: str) -> tuple[str, str]:
    """Return why a layer that is a disk does not keep its size, and what mends that; ("", "") when it does."""
    if why := disk.problem():
        return why, disk.remedy(why)
    desk = Desk("", {})
    try:
        disk.MakeDisk(path, None, _SIZE).apply(desk)
        disk.AttachDisk(path).apply(desk)
        outcome = attempt(lambda: _fill(path, desk.fds["disk"]))
    except LimitError as error:
        return error.message, error.hint or disk.LOOPS
    finally:
        desk.close()
    if not outcome.ok:
        return outcome.words(), "sudo modprobe ext4"
    written = outcome.value
    good = isinstance(written, int) and 0 < written <= 2 * _SIZE
    return ("", "") if good else (f"a disk of {_SIZE} bytes took {written}", "sudo dmesg | tail")


def _fill(path: str, device: int) -> Json:
    unshare("CLONE_NEWNS")
    mount(f"/proc/self/fd/{device}", path, "ext4", disk.FLAGS, disk.OPTIONS)
    fd = os.open(f"{path}/u/file", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    written = 0
    try:
        while written <= 2 * _SIZE:
            written += os.write(fd, bytes(65536))
    except OSError as error:
        if error.errno != 28:  # ENOSPC
            raise
    return written


def judge_sizes(seen: Sizes) -> Item:
    """Judge what limits writable layers."""
    base = Item("storage-size", "storage size", "ok", "asked for project quotas", "")
    memory = "in memory (--rm): the size of its tmpfs" if seen.memory else "in memory: none, this kernel can't have it there"
    if not seen.root:
        return base.replace(tried="looked who is asking", happened=f"{memory}; on disk: refused, that takes root")
    if not seen.no_quota:
        return base.replace(happened=f"{memory}; on disk: a project quota")
    base = base.replace(tried="asked for project quotas; made a disk in a file and wrote more than it holds")
    if not seen.no_loop:
        return base.replace(happened=f"{memory}; on disk: a disk of its own, by a loop device ({seen.no_quota})")
    return base.replace(
        level="warn",
        happened=f"{memory}; on disk: nothing: {seen.no_quota}; {seen.no_loop}",
        lost="--storage-size of containers that are kept (run -d, create, run without --rm)",
        fix=seen.fix,
    )
