"""How much a layer may take of the machine, counted before anything is written: the answer to bombs."""

from __future__ import annotations

import os

from pybox.errors import ImageError
from pybox.record import Record

_LOOK = 64 << 20  # bytes written between two looks at the free space


class Ceilings(Record):
    """How much one layer may take. The defaults fit any honest image; PYBOX_LAYER_BYTES raises the first."""

    size: int = 16 << 30  # bytes of all regular files, holes included
    entries: int = 1_000_000
    path: int = 4000  # bytes of one path; PATH_MAX is 4096 and the container adds its own
    depth: int = 200  # directories; one fd each while unpacking
    free: int = 256 << 20  # bytes of the disk that are never used
    tail: int = 64 << 20  # bytes behind the end of the archive


def current() -> Ceilings:
    """Return the ceilings for this process. Raises ImageError for a PYBOX_LAYER_BYTES that is no number."""
    given = os.environ.get("PYBOX_LAYER_BYTES")
    if given is None:
        return Ceilings()
    if not (given.isascii() and given.isdigit() and len(given) < 20):
        raise ImageError(f"PYBOX_LAYER_BYTES: {given!a}: not a number of bytes")
    return Ceilings(size=int(given))


class Budget:
    """What has been used of the ceilings. ``size`` is in bytes of regular files."""

    def __init__(self, most: Ceilings, disk: int) -> None:
        """``disk`` is an fd on the file system that is written to."""
        self.most = most
        self._disk = disk
        self._unlooked = _LOOK
        self.size = self.entries = 0

    def entry(self, size: int = 0) -> None:
        """Count one entry with that many bytes. Raises ImageError when it is one too many."""
        self.entries += 1
        if self.entries > self.most.entries:
            raise ImageError(f"more than {self.most.entries} entries")
        self.bytes(size)

    def bytes(self, size: int) -> None:
        """Count bytes that are about to be written. Raises ImageError when they are too many."""
        self.size += size
        if self.size > self.most.size:
            raise ImageError(f"more than {self.most.size} bytes", "PYBOX_LAYER_BYTES=N allows more, if you trust it")
        self._unlooked += size
        if self._unlooked >= _LOOK:
            self._unlooked = 0
            disk = os.fstatvfs(self._disk)
            free = disk.f_bavail * disk.f_frsize - self.most.free
            if size > free:
                raise ImageError(f"{size} bytes, but the disk of the store has only {max(free, 0)} to give")
