"""diff: what a container changed, by comparing its tree with its image's. Both are seen as the kernel stacks them.

The writable layer, where it is on disk, says where to look: only directories that are in it are compared, and in them only the
names it has. Whether something was added, changed or deleted is then asked of the two trees, so whiteouts and the other notes of
overlayfs need no rules here; but a directory that hides or moves what is below it (overlayfs.rst, "opaque" and "redirect") is
compared name by name. So is everything, when the layer is in memory: what is untouched has the image's own times there, the
time of the inode's last change included, which nobody can set.
"""

from __future__ import annotations

import os
import stat

from pybox.errors import PyboxError
from pybox.files import views
from pybox.files.reach import Mounts, Reach
from pybox.image.tree import DIRECTORY, Cursor
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    Kind = Literal["A", "C", "D"]

# What pybox puts into a root to mount things there, if the image has no such places: not the container's doing.
_OURS = frozenset((b"/proc", b"/sys", b"/dev", b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf"))
_THEIR_PARENTS = frozenset((b"/", b"/etc"))
_NOTES = tuple(f"{space}.overlay.{name}" for space in ("trusted", "user") for name in ("opaque", "redirect"))


class Change(Record):
    """One path that was added, changed or deleted. ``path`` is absolute, in the container."""

    kind: Kind
    path: bytes


def changed(reach: Reach) -> list[Change]:
    """Return what a container changed, sorted by path. Raises PyboxError where it can't be told."""
    if reach.given.top or (reach.image_id == "host" and not reach.upper):
        raise PyboxError(
            f"container {reach.identity}: the machine's own files change by themselves, so what is its own can't be told",
            "as root, run it with --upper disk" if reach.given.facts.root else None,
        )
    held = views.image(reach.given)
    try:
        rows = _in_its_eyes(reach, held.root)
    finally:
        held.close()
    return sorted(rows, key=lambda row: row.path)


def _in_its_eyes(reach: Reach, image: int) -> list[Change]:
    """Compare in a worker: a plain user may not look into every directory that a container with several ids made.

    Root may, and must do it as itself: in a user namespace nobody sees the notes of an overlay that root has mounted.
    """
    from pybox.files.worker import Notes, Reader, Worker, chunks_of, write

    userns = -1 if reach.given.facts.root else reach.userns
    # by its path only as the caller: to the container's root the store is closed
    upper = reach.open_upper()

    def send(fd: int, notes: Notes) -> None:
        rows = compare(reach.root, image, upper, reach.mounts)
        write(fd, (row.kind.encode() + row.path + b"\0" for row in rows))

    try:
        with Worker(userns, send, sends=True, notes=Notes()) as fd:
            found = b"".join(chunks_of(Reader(fd))).split(b"\0")[:-1]
    finally:
        if upper >= 0:
            os.close(upper)
    kinds: dict[bytes, Kind] = {b"A": "A", b"C": "C", b"D": "D"}
    return [Change(kinds[row[:1]], row[1:]) for row in found]


def compare(now: int, before: int, upper: int, mounts: Mounts) -> Iterator[Change]:
    """Yield the differences of two trees, given by O_PATH fds. ``upper`` is -1 when everything is to be compared."""
    roots = [_readable(now), _readable(before), _readable(upper) if upper >= 0 else -1]
    comparison = _Comparison([Cursor(root) for root in roots], upper >= 0, mounts)
    try:
        yield from comparison.run()
    finally:
        comparison.close()
        for root in roots:
            if root >= 0:
                os.close(root)


def _readable(fd: int) -> int:
    return os.open(".", DIRECTORY, dir_fd=fd)


class _Level:
    """A directory on the way: where it exists, what is left of its names, whether it is to be listed."""

    __slots__ = ("changed", "guided", "name", "names", "there")

    def __init__(self, name: bytes, there: tuple[bool, bool], guided: bool, names: Iterator[bytes], changed: bool) -> None:
        self.name, self.there, self.guided, self.names, self.changed = name, there, guided, names, changed


class _Comparison:
    def __init__(self, cursors: list[Cursor], guided: bool, mounts: Mounts) -> None:
        self._now, self._before, self._upper = cursors
        self._guided, self._mounts = guided, mounts

    def close(self) -> None:
        for cursor in (self._now, self._before, self._upper):
            cursor.close()

    def run(self) -> Iterator[Change]:
        """Walk both trees at once; no recursion, see taking.py."""
        path: list[bytes] = []
        levels = [self._level(path, (True, True), self._guided, False)]
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                levels.pop()
                if levels and level.changed:  # as docker: what holds a change has changed
                    if level.there[1]:
                        yield Change("C", b"/" + b"/".join(path))
                    levels[-1].changed = True
                del path[-1:]
                continue
            here, full = [*path, name], b"/" + b"/".join((*path, name))
            now = _status(self._now, path, name) if level.there[0] else None
            before = _status(self._before, path, name) if level.there[1] else None
            if full in self._mounts.paths or (now is not None and now.st_dev in self._mounts.others):
                continue
            if full in _OURS and now is not None and self._is_ours(here, now, before):
                continue
            if now is None:
                if before is not None:
                    level.changed = True
                    yield Change("D", full)
            elif stat.S_ISDIR(now.st_mode):
                both = before is not None and stat.S_ISDIR(before.st_mode)
                if before is None or not both:
                    level.changed = True
                    yield Change("A" if before is None else "C", full)
                different = both and before is not None and _differ(now, before, full)
                path.append(name)
                levels.append(self._level(here, (True, both), level.guided and both, different))
            elif before is None or stat.S_ISDIR(before.st_mode) or level.guided or _touched(now, before):
                level.changed = True
                yield Change("A" if before is None else "C", full)

    def _is_ours(self, path: list[bytes], now: os.stat_result, before: os.stat_result | None) -> bool:
        """Return whether it is an empty place that the image lacks, or one of the three files that a run in memory writes."""
        if stat.S_ISREG(now.st_mode):
            return not self._guided or (before is None and now.st_size == 0)
        return before is None and stat.S_ISDIR(now.st_mode) and not os.listdir(_enter(self._now, path))

    def _level(self, path: list[bytes], there: tuple[bool, bool], guided: bool, changed: bool) -> _Level:
        if guided:
            upper = _enter(self._upper, path)
            if upper >= 0 and not _hides(upper):
                names = set(os.listdir(upper))
                return _Level(path[-1] if path else b"", there, True, _sorted(names), changed)
        names = set()
        for cursor, exists in ((self._now, there[0]), (self._before, there[1])):
            if exists and (fd := _enter(cursor, path)) >= 0:
                names |= set(os.listdir(fd))
        return _Level(path[-1] if path else b"", there, False, _sorted(names), changed)


def _sorted(names: set[str]) -> Iterator[bytes]:
    return iter(sorted(map(os.fsencode, names)))


def _enter(cursor: Cursor, path: list[bytes]) -> int:
    """Return the open directory at ``path``, -1 when there is none (any more)."""
    try:
        here = cursor.at(path)
        while here is None or cursor.depth < len(path):
            here = cursor.enter(path[cursor.depth])
        return here
    except (FileNotFoundError, NotADirectoryError):
        return -1
    except OSError as error:
        if error.errno == 40:  # ELOOP: a link meanwhile
            return -1
        raise


def _status(cursor: Cursor, folder: list[bytes], name: bytes) -> os.stat_result | None:
    fd = _enter(cursor, folder)
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False) if fd >= 0 else None
    except FileNotFoundError:
        return None


def _hides(upper: int) -> bool:
    names = os.listxattr(upper)
    return any(note in names for note in _NOTES)


def _differ(now: os.stat_result, before: os.stat_result, path: bytes) -> bool:
    mine, its = (now.st_mode, now.st_uid, now.st_gid), (before.st_mode, before.st_uid, before.st_gid)
    return mine != its or (now.st_mtime_ns != before.st_mtime_ns and path not in _THEIR_PARENTS)


def _touched(now: os.stat_result, before: os.stat_result) -> bool:
    def facts(status: os.stat_result) -> tuple[int, ...]:
        return status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    return facts(now) != facts(before)
