"""Loop devices: a file as a block device, loop(4). Whoever asks for that of a file gets the same one, and none is left behind.

Two devices of one file would be two caches of one disk, and what is on it would be lost. So a device is made by who holds the
lock on the file, flock(2), and the kernel keeps that very open file, with its lock, for as long as the device has it: the
lock is there neither too short nor too long, whoever is killed. Who does not get it looks for the device instead.

The kernel lets go of the file when nobody has the device open or mounted any more (LO_FLAGS_AUTOCLEAR), so there is nothing to undo.
"""

from __future__ import annotations

import errno as errnos
import os
from fcntl import LOCK_EX, LOCK_NB, flock, ioctl
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _STATUS = 0x4C82, 0x4C0A, 0x4C05  # LOOP_CTL_GET_FREE, LOOP_CONFIGURE, LOOP_GET_STATUS64 of linux/loop.h
_AUTOCLEAR = 4
_INFO = Struct("=QQQQQIIII64s64s32sQQ")  # struct loop_info64: device and inode of the file, ..., at 8 the flags, its name
_CONFIG = Struct(f"=II{_INFO.size}s64x")  # struct loop_config: the file, the size of a block
_PATIENCE = 10.0  # seconds: a device that is being let go of has its file a moment longer than it can be opened


def attach(path: str, before: Callable[[int], None], block: int) -> int:
    """Return an fd of the block device of a file: of the one that it has, else of a new one with blocks of that many bytes.

    Unless it has one, ``before`` is called with an fd of the file, when nobody else can be at it. Raises OSError.
    """
    from time import monotonic, sleep

    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        limit = monotonic() + _PATIENCE
        while True:
            device = _found(path, os.fstat(file))
            if device >= 0:
                return device
            try:
                flock(file, LOCK_EX | LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > limit:
                    raise OSError(errnos.EBUSY, "the device that it has can't be opened", path) from None
            sleep(0.002)
        before(file)
        return _made(path, file, block)
    finally:
        os.close(file)


def is_attached(path: str) -> bool:
    """Return whether a file has a block device. Raises OSError when there is no such file."""
    device = _found(path, os.stat(path))
    if device >= 0:
        os.close(device)
    return device >= 0


def _found(path: str, status: os.stat_result) -> int:
    """Return an fd of the device that a file has, -1 if it has none. While the fd is open the device keeps its file."""
    tail = "/".join(path.split("/")[-2:])
    try:
        names = os.listdir("/sys/block")
    except OSError:
        names = []
    for name in names:
        if not name.startswith("loop"):
            continue
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="replace") as shown:
                if not shown.read().rstrip("\n").removesuffix(" (deleted)").endswith(tail):  # others' devices are not opened
                    continue
            device = os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # it has none, or not any more
            continue
        try:
            info = _INFO.unpack(ioctl(device, _STATUS, bytes(_INFO.size)))
            if (info[0], info[1]) == (status.st_dev, status.st_ino):
                return device
        except OSError:
            pass
        os.close(device)
    return -1


def _made(path: str, file: int, block: int) -> int:
    name = os.fsencode(path)[-63:]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, name, b"", b"", 0, 0)
    config = _CONFIG.pack(file, block, info)
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        while True:
            device = os.open(f"/dev/loop{ioctl(control, _GET_FREE)}", os.O_RDWR | os.O_CLOEXEC)
            try:
                ioctl(device, _CONFIGURE, config)
                return device
            except OSError as error:
                os.close(device)
                if error.errno != errnos.EBUSY:  # else somebody else was quicker: another one is free
                    raise
    finally:
        os.close(control)


def problem() -> str:
    """Return why there can be no loop device; "" when there can. Loads the kernel's module."""
    try:
        os.close(os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"there are no loop devices: {CONTROL}: {error.strerror}"
    return ""
