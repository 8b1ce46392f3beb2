"""An image seen layer by layer: which layer a path comes from, what a layer hides, and what is shipped though nobody sees it.

It follows what overlayfs does with the layers on disk, in Python, so nothing is mounted: an entry of an upper layer takes the
place of a lower one, only directories are merged; character device 0:0 deletes, the opaque attribute hides all that is below.
kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat

from pybox.dirs import Dirs
from pybox.image import layerfile, seam, store
from pybox.image.tree import DIRECTORY, OPAQUE, descend
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["A", "C", "D"]


class Event(Record):
    """What one layer does to one path."""

    layer: int  # 0 is the lowest
    path: bytes  # absolute
    what: str  # "added", "changed", "changed (mode, owner or time only)", "deleted", "hidden"
    size: int  # bytes of the file in this layer
    lost: int = 0  # bytes below that are shipped, but can't be seen any more


class Change(Record):
    """One path in which two images differ."""

    kind: Kind
    path: bytes


class _Node:
    """A path as the layers so far show it."""

    __slots__ = ("below", "layer", "status")

    def __init__(self, layer: int, status: os.stat_result) -> None:
        self.layer, self.status = layer, status
        self.below: dict[bytes, _Node] = {}

    def size(self) -> int:
        """Bytes of the regular files at and below it; a file with several names counts for each."""
        own = self.status.st_size if stat.S_ISREG(self.status.st_mode) else 0
        return own + sum(node.size() for node in self.below.values())

    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


class Stack:
    """The layers of an image, the lowest first, with what each of them does."""

    def __init__(self, dirs: Dirs, diff_ids: tuple[str, ...]) -> None:
        keys = [store.layer_key(diff_id) for diff_id in diff_ids]
        self.paths = tuple(store.layer_path(dirs, key) for key in keys)
        self._implied = [seam.implied(layerfile.read(f"{dirs.layers}/{key}")) for key in keys]
        self._roots = [os.open(path, DIRECTORY) for path in self.paths]
        self.events: list[Event] = []
        self.top = _Node(0, os.fstat(self._roots[0]))
        for number, root in enumerate(self._roots):
            self._add(number, root)

    def close(self) -> None:
        """Let go of the layers."""
        for root in self._roots:
            os.close(root)

    def _add(self, number: int, root: int) -> None:
        if number:
            self.top.status = os.fstat(root)
        for where, folders, files, fd in os.fwalk(b".", follow_symlinks=False, dir_fd=root):
            names = [name for name in where.split(b"/") if name != b"."]
            here = self._at(names)
            if here is None:  # below something that this walk has just found to be no directory any more
                continue
            for name in sorted((*folders, *files)):
                self._entry(
                    number, here, b"/" + b"/".join((*names, name)), name, os.stat(name, dir_fd=fd, follow_symlinks=False), fd
                )

    def _at(self, names: list[bytes]) -> _Node | None:
        here: _Node | None = self.top
        for name in names:
            here = here.below.get(name) if here is not None else None
        return here

    def _entry(self, number: int, here: _Node, path: bytes, name: bytes, status: os.stat_result, fd: int) -> None:
        before = here.below.get(name)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            gone = here.below.pop(name, None)
            self.events.append(Event(number, path, "deleted", 0, gone.size() if gone is not None else 0))
            return
        node = _Node(number, status)
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        if before is None:
            self.events.append(Event(number, path, "added", size))
        elif node.is_folder() and before.is_folder():
            if path[1:] in self._implied[number]:
                return  # the layer says nothing of it, only of what is in it
            if _is_opaque(name, fd):
                self.events.append(Event(number, path, "hidden", 0, before.size()))
            else:
                node.below = before.below
                if _differ(before.status, status):
                    self.events.append(Event(number, path, "changed", 0))
        else:
            same = _kind(before.status) == _kind(status) and size == before.size() and self._same(before, node, path)
            what = "changed (mode, owner or time only)" if same else "changed"
            self.events.append(Event(number, path, what, size, before.size()))
        here.below[name] = node

    def _same(self, one: _Node, other: _Node, path: bytes) -> bool:
        """Whether two files have the same content, or two links the same target."""
        return self.content(one, path) == self.content(other, path)

    def content(self, node: _Node, path: bytes) -> bytes:
        """Return what tells the contents of two files apart: a link's target, a device's number, a file's digest."""
        *folders, name = path.strip(b"/").split(b"/")
        folder = descend(self._roots[node.layer], folders)
        try:
            if stat.S_ISLNK(node.status.st_mode):
                return os.readlink(name, dir_fd=folder)
            if not stat.S_ISREG(node.status.st_mode):
                return b"%d" % node.status.st_rdev
            import hashlib

            with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder), "rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        finally:
            os.close(folder)

    def at_path(self, path: bytes) -> list[Event]:
        """Return what the layers do to a path and to all below it, by path."""
        wanted = b"/" + path.strip(b"/")
        below = wanted.rstrip(b"/") + b"/"
        return sorted(
            (event for event in self.events if event.path == wanted or event.path.startswith(below)),
            key=lambda event: (event.path, event.layer),
        )

    def lost(self) -> list[Event]:
        """Return what makes shipped bytes invisible, the most of them first."""
        return sorted((event for event in self.events if event.lost), key=lambda event: (-event.lost, event.path))


def differences(old: Stack, new: Stack) -> list[Change]:
    """Return the paths in which two images differ, by path; of what is only in one, the topmost only."""
    found: list[Change] = []
    todo: list[tuple[bytes, _Node, _Node]] = [(b"", old.top, new.top)]
    while todo:
        path, was, now = todo.pop()
        for name in {*was.below, *now.below}:
            here = path + b"/" + name
            before, after = was.below.get(name), now.below.get(name)
            if before is None or after is None:
                found.append(Change("D" if after is None else "A", here))
                continue
            if old.paths[before.layer] == new.paths[after.layer] and not before.is_folder():
                continue  # the very same file of the very same layer
            if _differ(before.status, after.status) or (
                not after.is_folder() and old.content(before, here) != new.content(after, here)
            ):
                found.append(Change("C", here))
            if before.is_folder() and after.is_folder():
                todo.append((here, before, after))
    return sorted(found, key=lambda change: change.path)


def _kind(status: os.stat_result) -> int:
    return stat.S_IFMT(status.st_mode)


def _differ(one: os.stat_result, other: os.stat_result) -> bool:
    """Whether two entries differ in what a listing shows; a directory's size and time say nothing of the directory."""
    if (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid):
        return True
    if stat.S_ISDIR(one.st_mode):
        return False
    return (one.st_size, one.st_mtime_ns) != (other.st_size, other.st_mtime_ns)


def _is_opaque(name: bytes, folder: int) -> bool:
    try:
        fd = os.open(name, DIRECTORY, dir_fd=folder)
    except PermissionError:  # a plain user's layer with a directory that forbids its owner to look
        return False
    try:
        return any(attribute in OPAQUE for attribute in os.listxattr(fd))
    finally:
        os.close(fd)
