"""Taking: a tree becomes a tar, whoever changes it meanwhile. The same bytes for a tree that nobody changes.

A name is looked up once, below an open directory, never through a link. A file is opened by the fd that showed it to be one: no
fifo and no device is ever opened, and what a hostile container puts in its place in between is not looked at. Any depth goes,
and a file of any size: it is read in pieces, its holes are skipped (GNU sparse format 1.0, in pax). What vanishes under our
hands is noted, not an error: the tree may be of a container that runs.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile

from pybox.errors import PyboxError
from pybox.image.pack import END, described, encoded, padding
from pybox.image.stream import CHUNK
from pybox.image.tape import shown
from pybox.image.tree import Cursor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pybox.files.worker import Notes

_GONE = frozenset((errno.ENOENT, errno.ELOOP, errno.ENOTDIR))
_SPECIAL = {stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}
_ZEROS = b"\0" * CHUNK


class Taker:
    """Writes one tar.

    ``bare`` are device numbers of file systems of which only the mount points are shown, ``closed`` names in the archive of what
    is shown empty. ``strict`` makes an error of what may not be read; in a container it belongs to ids that its
    root has no power over, and is noted. ``skip`` is asked of each (name in the archive, whether it is a directory) below the top.
    """

    def __init__(
        self,
        notes: Notes,
        bare: frozenset[int] = frozenset(),
        closed: frozenset[bytes] = frozenset(),
        *,
        strict: bool = False,
        skip: Callable[[bytes, bool], bool] | None = None,
    ) -> None:
        self._notes, self._bare, self._closed, self._strict, self._skip = notes, bare, closed, strict, skip
        self._seen: dict[tuple[int, int], bytes] = {}  # files with several names: the first one taken

    def tar(self, thing: int, name: bytes) -> Iterator[bytes]:
        """Yield the tar of what an O_PATH fd leads to, under a name in the archive. Raises PyboxError."""
        status = os.fstat(thing)
        if not stat.S_ISDIR(status.st_mode):
            yield from self.entry(thing, status, name)
        else:
            root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=thing)
            try:
                yield self.folder(root, name)
                yield from self._below(root, name)
            finally:
                os.close(root)
        yield END

    def _below(self, root: int, prefix: bytes) -> Iterator[bytes]:
        """Yield what is in a directory. No recursion: a container may have made a tree deeper than any stack."""
        cursor, path = Cursor(root), list[bytes]()
        waiting = [self._names(root)]
        try:
            while waiting:
                name = next(waiting[-1], None)
                if name is None:
                    waiting.pop()
                    del path[-1:]
                    continue
                full = b"/".join((prefix, *path, name))
                try:
                    folder = cursor.at(path)
                    assert folder is not None
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if self._skip is not None and self._skip(full, stat.S_ISDIR(status.st_mode)):
                        continue
                    if not stat.S_ISDIR(status.st_mode):
                        yield from self.named(folder, name, full)
                        continue
                    here = cursor.enter(name)
                    yield self.folder(here, full)
                    if os.fstat(here).st_dev not in self._bare and full not in self._closed:
                        path.append(name)
                        waiting.append(self._names(here))
                except OSError as error:
                    self._lost(full, error)
        finally:
            cursor.close()

    def _names(self, folder: int) -> Iterator[bytes]:
        return iter(sorted(os.fsencode(name) for name in os.listdir(folder)))

    def _lost(self, name: bytes, error: OSError) -> None:
        if error.errno in _GONE:
            self._notes.add(f"{shown(name)}: it was gone before it could be read")
        elif error.errno == errno.EACCES and not self._strict:
            self._notes.add(f"{shown(name)}: skipped, {error.strerror}")
        else:
            raise PyboxError(f"{shown(name)}: {error.strerror or error}") from None

    def named(self, folder: int, name: bytes, full: bytes) -> Iterator[bytes]:
        """Yield the entry of a name in an open directory, which is no directory itself. Raises OSError."""
        thing = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            status = os.fstat(thing)
            if stat.S_ISDIR(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "it has become a directory")
            yield from self.entry(thing, status, full)
        finally:
            os.close(thing)

    def folder(self, fd: int, full: bytes) -> bytes:
        """Return the entry of an open directory."""
        entry = _described(full + b"/", os.fstat(fd), tarfile.DIRTYPE)
        _add_attributes(entry, fd)
        return encoded(entry)

    def entry(self, thing: int, status: os.stat_result, full: bytes) -> Iterator[bytes]:
        """Yield the entry of an O_PATH fd that is no directory's. Raises OSError."""
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return
        if status.st_nlink > 1 and (first := self._seen.setdefault((status.st_dev, status.st_ino), full)) != full:
            entry = _described(full, status, tarfile.LNKTYPE)
            entry.linkname = _text(first)
            yield encoded(entry)
        elif kind == stat.S_IFREG:
            if status.st_dev in self._bare or full in self._closed:
                yield encoded(_described(full, status, tarfile.REGTYPE))
                return
            fd = os.open(f"/proc/self/fd/{thing}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                yield from self._file(fd, full)
            finally:
                os.close(fd)
        elif kind == stat.S_IFLNK:
            entry = _described(full, status, tarfile.SYMTYPE)
            entry.linkname = _text(os.readlink(b"", dir_fd=thing))
            yield encoded(entry)
        else:
            entry = _described(full, status, _SPECIAL[kind])
            if kind != stat.S_IFIFO:
                entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            yield encoded(entry)

    def _file(self, fd: int, full: bytes) -> Iterator[bytes]:
        status = os.fstat(fd)
        entry = _described(full, status, tarfile.REGTYPE)
        _add_attributes(entry, fd)
        pieces = [(0, status.st_size)]
        if status.st_blocks * 512 < status.st_size:
            pieces = _pieces(fd, status.st_size)
        start = b""
        if pieces != [(0, status.st_size)]:
            start = make_sparse(entry, pieces, status.st_size)
        entry.size = size = len(start) + sum(length for _, length in pieces)
        yield encoded(entry)
        if start:
            yield start
        for offset, length in pieces:
            while length:
                data = os.pread(fd, min(length, CHUNK), offset)
                if not data:
                    self._notes.add(f"{shown(full)}: it shrank while it was read; the rest is zeros")
                    yield from _zeros(length)
                    break
                yield data
                offset, length = offset + len(data), length - len(data)
        yield padding(size)


def _described(name: bytes, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    entry = described(_text(name), kind, stat.S_IMODE(status.st_mode), 0)
    entry.uid, entry.gid = status.st_uid, status.st_gid
    entry.mtime, part = divmod(status.st_mtime_ns, 10**9)
    if part:  # tarfile would make a float of it, which has too few digits
        text = (
            f"{entry.mtime}.{part:09}"
            if entry.mtime >= 0
            else f"-{-status.st_mtime_ns // 10**9}.{-status.st_mtime_ns % 10**9:09}"
        )
        _note(entry, "mtime", text)
    return entry


def _note(entry: tarfile.TarInfo, key: str, value: str) -> None:
    entry.pax_headers = {**entry.pax_headers, key: value}


def _add_attributes(entry: tarfile.TarInfo, fd: int) -> None:
    for name in sorted(os.listxattr(fd)):
        if name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay.")):
            try:
                _note(entry, f"SCHILY.xattr.{name}", _text(os.getxattr(fd, name)))
            except OSError as error:
                if error.errno != errno.ENODATA:  # taken away in between
                    raise


def _pieces(fd: int, size: int) -> list[tuple[int, int]]:
    """Return (offset, length) of what is not a hole; one piece where the file system can't say, or says it all too minutely."""
    found, end = list[tuple[int, int]](), 0
    try:
        while end < size:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nothing but a hole is left
                    raise
                break
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
            found.append((start, end - start))
            if len(found) > 10_000:
                return [(0, size)]
    except OSError:
        return [(0, size)]
    return found


def make_sparse(entry: tarfile.TarInfo, pieces: list[tuple[int, int]], size: int) -> bytes:
    """Make it an entry of GNU sparse format 1.0; return the map, which stands before the data."""
    folder, _, name = entry.name.rpartition("/")
    for key, value in (("major", "1"), ("minor", "0"), ("name", entry.name), ("realsize", str(size))):
        _note(entry, f"GNU.sparse.{key}", value)
    entry.name = f"{folder or '.'}/GNUSparseFile.0/{name}"
    listed = list(pieces)
    if not listed or sum(listed[-1]) < size:  # a hole at the end is said by an empty piece there
        listed.append((size, 0))
    numbers = [len(listed), *(number for piece in listed for number in piece)]
    text = "".join(f"{number}\n" for number in numbers).encode()
    return text + padding(len(text))


def _zeros(length: int) -> Iterator[bytes]:
    while length:
        yield _ZEROS[: min(length, CHUNK)]
        length -= min(length, CHUNK)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
