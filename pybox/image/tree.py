"""Walking a directory tree by file descriptors, never following a symbolic link: the one way layers are touched.

A path in here is a list of names, each a single component, relative to an open directory. No name is looked up by a string
path, so nothing in a layer can lead out of it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")  # the attribute that hides what is below a directory
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def descend(root: int, names: Sequence[bytes]) -> int:
    """Open the directory at ``names`` below ``root``; the caller closes it. Raises OSError (ELOOP or ENOTDIR for a link)."""
    fd = os.dup(root)
    for name in names:
        try:
            below = os.open(name, DIRECTORY, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd


class Cursor:
    """The directory last worked in, with its ancestors kept open: the next entry of a tar is nearly always close by.

    No more than ``most`` are kept: what lies higher up in a tree that is deeper is opened again, from the root, on the way back.
    """

    def __init__(self, root: int, most: int = 256) -> None:
        self._root = root
        self._most = most
        self._names: list[bytes] = []
        self._fds: list[int] = []  # of the last of the names, as many as there are

    def at(self, names: Sequence[bytes]) -> int | None:
        """Return the open directory at ``names``, or None when its last ancestors are not open yet (see ``enter``)."""
        common = 0
        for mine, wanted in zip(self._names, names, strict=False):
            if mine != wanted:
                break
            common += 1
        while len(self._names) > common:
            self._names.pop()
            if self._fds:
                os.close(self._fds.pop())
        if self._names and not self._fds:
            again, self._names = self._names, []
            for above in again:
                self.enter(above)
        return self.here if common == len(names) else None

    @property
    def depth(self) -> int:
        """How many components below the root ``here`` is."""
        return len(self._names)

    @property
    def here(self) -> int:
        """The open directory; it stays the cursor's."""
        return self._fds[-1] if self._fds else self._root

    def enter(self, name: bytes) -> int:
        """Go one directory down. Raises OSError."""
        self._fds.append(os.open(name, DIRECTORY, dir_fd=self.here))
        self._names.append(name)
        if len(self._fds) > self._most:
            os.close(self._fds.pop(0))
        return self.here

    def close(self) -> None:
        """Go back to the root, closing all else."""
        self._names.clear()
        while self._fds:
            os.close(self._fds.pop())
