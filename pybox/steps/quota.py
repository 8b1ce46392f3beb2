"""The step that limits a writable layer on disk: a project quota, where the file system has them (ext4 and xfs with prjquota).

A project is a number that a directory hands on to all that is made in it; quotactl(2) limits what has that number. It needs no
device and no mount of its own, and nothing of it is left when the limit is taken back.
"""

from __future__ import annotations

import os
from fcntl import ioctl
from struct import pack, unpack

from pybox import native
from pybox.errors import LimitError
from pybox.steps.base import Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.seen import Seen

_GET, _SET, _FORMAT = 0x801C581F, 0x401C5820, "4I12x"  # FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR and struct fsxattr of linux/fs.h
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SetQuota(HostStep):
    """Limit what the writable layer may take of the disk: all that is made in it counts for one project, and that has a quota.

    Writing more fails: "No space left on device" on xfs, "Disk quota exceeded" on ext4. Overlayfs writes with the rights of its
    mounter, but gives up the one to exceed quotas.
    """

    call: ClassVar[str] = "quotactl"
    man: ClassVar[str] = "quotactl(2)"
    path: str
    size: int  # bytes

    def describe(self) -> str:
        return f"limit {self.path} to {self.size} bytes"

    def calls(self) -> tuple[str, ...]:
        return (
            "ioctl(<dir>, FS_IOC_FSSETXATTR, {xflags=PROJINHERIT, projid=...})",
            "quotactl_fd(<dir>, Q_SETQUOTA, PROJECT, ...)",
        )

    def leaves(self) -> tuple[tuple[str, str], ...]:
        return (("quota", self.path),)

    def apply(self, desk: Desk) -> None:
        path = desk.named(self.path)
        fd = os.open(path, _DIRECTORY)
        try:
            number = project(fd) or _free(fd, 1 << 30 | int(desk.identity[:7], 16))
            for each in (".", "u", "w"):
                _mark(fd, each, number)
            native.set_quota(fd, number, self.size)
        except OSError as error:
            raise LimitError(f"cannot enforce --storage-size: {path}: {error.strerror}", "--best-effort runs without") from None
        finally:
            os.close(fd)

    def check(self, seen: Seen) -> bool:
        fd = os.open(seen.named(self.path), _DIRECTORY)
        try:
            return native.quota(fd, project(fd)) == self.size // 1024 * 1024
        finally:
            os.close(fd)


def project(fd: int) -> int:
    """Return the project of an open directory, 0 for none. Raises OSError."""
    return int(unpack(_FORMAT, ioctl(fd, _GET, bytes(28)))[3])


def problem(path: str) -> str:
    """Return why there can be no project quota at a path that need not be there yet; "" when there can."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        fd = os.open(path, _DIRECTORY)
        try:
            native.check_quota(fd)
        finally:
            os.close(fd)
    except OSError as error:
        missing = error.errno in (3, 25, 38, 95)  # ESRCH, ENOTTY, ENOSYS, EOPNOTSUPP
        return f"the file system of {path} has no project quotas" if missing else f"project quota of {path}: {error.strerror}"
    return ""


def _free(fd: int, number: int) -> int:
    while native.quota(fd, number):  # somebody else's
        number += 1
    return number


def _mark(fd: int, name: str, number: int) -> None:
    here = os.open(name, _DIRECTORY, dir_fd=fd)
    try:
        flags, extent, count, _ = unpack(_FORMAT, ioctl(here, _GET, bytes(28)))
        ioctl(here, _SET, pack(_FORMAT, flags | _INHERIT, extent, count, number))
    finally:
        os.close(here)
