"""Being told what happens in directories and to the kernel's own files: inotify(7). And how a process ended that is not ours to wait for.

Through ctypes: only `pybox events` needs it, so the way of `run` does not pay for it.
"""

from __future__ import annotations

import ctypes
import os
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("=iIII")  # struct inotify_event, without the name that follows

MODIFY, CLOSE_WRITE, MOVED_TO, CREATE, DELETE = 0x2, 0x8, 0x80, 0x100, 0x200
ONLYDIR, OVERFLOW, IGNORED = 0x1000000, 0x4000, 0x8000

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, the 64 bytes that struct pidfd_info began with); linux/pidfd.h
_INFO = struct.Struct("=QQ11Ii")  # mask, cgroupid, pid ... fsgid, exit_code
_INFO_EXIT = 1 << 3


class Inotify:
    """A queue of what happened where it was asked to watch."""

    def __init__(self) -> None:
        self.fd = _checked(_LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), None)

    def watch(self, path: str, mask: int) -> int:
        """Watch a file or directory; returns the number that its events will bear. Raises OSError."""
        return _checked(_LIBC.inotify_add_watch(self.fd, os.fsencode(path), mask), path)

    def forget(self, number: int) -> None:
        """Watch it no longer; no error if it is gone."""
        _LIBC.inotify_rm_watch(self.fd, number)

    def read(self) -> list[tuple[int, int, str]]:
        """Return (number, mask, file name) of what happened since the last call; never waits."""
        found = []
        try:
            while data := os.read(self.fd, 65536):
                at = 0
                while at < len(data):
                    number, mask, _, length = _EVENT.unpack_from(data, at)
                    at += _EVENT.size
                    found.append((number, mask, os.fsdecode(data[at : at + length].rstrip(b"\0"))))
                    at += length
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        """Forget all."""
        os.close(self.fd)


def _checked(result: int, path: str | None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def exit_status(pidfd: int) -> int | None:
    """Return the wait status of a process that somebody else has reaped; None where the kernel can't tell (before Linux 6.15)."""
    from fcntl import ioctl

    info = bytearray(64)
    struct.pack_into("=Q", info, 0, _INFO_EXIT)
    try:
        ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    mask, *_, status = _INFO.unpack_from(info)
    return status if mask & _INFO_EXIT else None
