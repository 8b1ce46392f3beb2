"""Locks that die with their owner, and work directories that can be told from debris.

flock(2) belongs to the open file: the kernel drops it however the owner ends, SIGKILL included. So a lock that can be taken
has no living owner, and no pid has to be trusted.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


def take(path: str, *, wait: bool = True, shared: bool = False) -> int | None:
    """Lock the file at ``path`` (created if absent) and return its fd; None if another holds it and ``wait`` is false.

    ``shared``: others may hold it in the same way, but nobody alone.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _lock(fd, path, wait=wait, shared=shared):
            return fd
        os.close(fd)
        if not wait and os.path.exists(path):
            return None


def drop(path: str, fd: int) -> None:
    """Unlink the lock file, then let go of it: whoever waited on it sees that its file has lost its name and starts over.

    Where others share the lock the last of them does it: a file without its name would not keep out who comes next.
    """
    if _lock(fd, path, wait=False):
        os.unlink(path)
    os.close(fd)


def _lock(fd: int, path: str, *, wait: bool, shared: bool = False) -> bool:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    try:
        there, mine = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


class Lock:
    """``with Lock(path):`` waits for the lock, holds it, leaves no file behind."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        fd = take(self._path)
        assert fd is not None
        self._fd = fd

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        drop(self._path, self._fd)


class Workspace:
    """A private directory ``<store>/tmp-<12 hex>``, locked while in use and removed at the end, whatever happens in between."""

    PREFIX = "tmp-"

    def __init__(self, store: str) -> None:
        self._store = store

    def __enter__(self) -> str:
        while True:
            self._path = f"{self._store}/{self.PREFIX}{os.urandom(6).hex()}"
            os.mkdir(self._path, 0o700)
            # A sweep may find the directory before it is locked and remove it: then the next name is tried.
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if _lock(self._fd, self._path, wait=True):
                return self._path
            os.close(self._fd)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        remove_tree(self._path)
        os.close(self._fd)


def remove_if_dead(path: str) -> bool:
    """Remove a work directory that no living process holds; returns whether it did."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not _lock(fd, path, wait=False):
            return False
        remove_tree(path)
        return True
    finally:
        os.close(fd)


def sweep(store: str) -> list[str]:
    """Remove the work directories that killed pyboxes left, which may be large; returns their paths. Raises OSError."""
    found = (f"{store}/{entry}" for entry in sorted(os.listdir(store)) if entry.startswith(Workspace.PREFIX))
    return [path for path in found if remove_if_dead(path)]


def remove_tree(path: str) -> None:
    """Remove a file or directory tree without following a link; absent is fine. Raises OSError."""
    folder, _, name = path.rpartition("/")
    fd = os.open(folder or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _remove(fd, name)
    finally:
        os.close(fd)


def _remove(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    if os.geteuid():  # a layer may hold directories that their owner can't read
        os.chmod(name, 0o700, dir_fd=folder)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        for entry in os.listdir(fd):
            _remove(fd, entry)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=folder)
