"""Packing a directory into a tar, the same bytes for the same tree: sorted names, no access times, whole seconds, no user names.

Stays on one file system (a mount point becomes an empty directory) and follows no link. What a layer can't carry is refused
(names that mean a whiteout) or left out (sockets; attributes other than user.* and security.capability, see layer.py). A plain
user's own files are packed as root's: that is whom they belong to inside, and root's and the user's tars are then the same.
"""

from __future__ import annotations

import os
import stat
import tarfile

from pybox.errors import ImageError
from pybox.image.stream import CHUNK
from pybox.image.tape import shown
from pybox.image.tree import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 512
_DEPTH = 200  # as in ceilings.py


def packed(path: str) -> Iterator[bytes]:
    """Yield the tar of the directory at ``path``, in pieces. Raises ImageError naming the file."""
    try:
        root = os.open(path, DIRECTORY)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    try:
        yield from _Packer(root).tar()
    finally:
        os.close(root)


def header(name: str, size: int) -> bytes:
    """Return the header of a plain root-owned file dated 0, as archives of images have them."""
    return encoded(described(name, tarfile.REGTYPE, 0o644, size))


def padding(size: int) -> bytes:
    """Return the zeros that follow ``size`` content bytes."""
    return b"\0" * (-size % _BLOCK)


END = b"\0" * (2 * _BLOCK)


class _Packer:
    def __init__(self, root: int) -> None:
        self._root = root
        self._device = os.fstat(root).st_dev
        self._user = os.geteuid()
        self._seen: dict[tuple[int, int], str] = {}  # files with several names: the first one packed

    def tar(self) -> Iterator[bytes]:
        entry = self._describe("./", os.fstat(self._root), tarfile.DIRTYPE)
        self._attributes(entry, self._root)
        yield encoded(entry)
        yield from self._folder(self._root, "", 0)
        yield END

    def _folder(self, folder: int, prefix: str, depth: int) -> Iterator[bytes]:
        for raw in sorted(os.fsencode(name) for name in os.listdir(folder)):
            name = prefix + raw.decode("utf-8", "surrogateescape")
            if raw.startswith(b".wh."):
                raise ImageError(f"{shown(name)}: a name that starts with .wh. means a whiteout in a layer", "rename it")
            try:
                yield from self._one(folder, raw, name, depth)
            except OSError as error:
                raise ImageError(f"{shown(name)}: {error.strerror or error}") from None

    def _one(self, folder: int, raw: bytes, name: str, depth: int) -> Iterator[bytes]:
        status = os.stat(raw, dir_fd=folder, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            yield from self._below(folder, raw, name, depth, status)
        elif kind == stat.S_IFSOCK:
            return
        elif status.st_nlink > 1 and (first := self._seen.setdefault((status.st_dev, status.st_ino), name)) != name:
            entry = self._describe(name, status, tarfile.LNKTYPE)
            entry.linkname = first
            yield encoded(entry)
        elif kind == stat.S_IFREG:
            yield from self._file(folder, raw, name)
        elif kind == stat.S_IFLNK:
            entry = self._describe(name, status, tarfile.SYMTYPE)
            entry.linkname = os.readlink(raw, dir_fd=folder).decode("utf-8", "surrogateescape")
            yield encoded(entry)
        else:
            types = {stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}
            entry = self._describe(name, status, types[kind])
            if kind == stat.S_IFCHR and status.st_rdev == 0:
                raise ImageError(
                    f"{shown(name)}: a whiteout of overlayfs (this directory is an upper layer, not a root file system)"
                )
            if kind != stat.S_IFIFO:
                entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
            yield encoded(entry)

    def _below(self, folder: int, raw: bytes, name: str, depth: int, status: os.stat_result) -> Iterator[bytes]:
        if depth >= _DEPTH:
            raise ImageError(f"{shown(name)}: more than {_DEPTH} directories deep")
        entry = self._describe(name + "/", status, tarfile.DIRTYPE)
        if status.st_dev != self._device:
            yield encoded(entry)
            return
        below = os.open(raw, DIRECTORY, dir_fd=folder)
        try:
            self._attributes(entry, below)
            yield encoded(entry)
            yield from self._folder(below, name + "/", depth + 1)
        finally:
            os.close(below)

    def _file(self, folder: int, raw: bytes, name: str) -> Iterator[bytes]:
        fd = os.open(raw, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            status = os.fstat(fd)
            entry = self._describe(name, status, tarfile.REGTYPE)
            self._attributes(entry, fd)
            yield encoded(entry)
            left = entry.size = status.st_size
            while left:
                data = os.read(fd, min(left, CHUNK))
                if not data:
                    raise ImageError(f"{shown(name)}: it shrank while it was read")
                left -= len(data)
                yield data
            yield padding(status.st_size)
        finally:
            os.close(fd)

    def _describe(self, name: str, status: os.stat_result, kind: bytes) -> tarfile.TarInfo:
        size = status.st_size if kind == tarfile.REGTYPE else 0
        entry = described(name, kind, stat.S_IMODE(status.st_mode), size)
        if self._user == 0 or status.st_uid != self._user:
            entry.uid, entry.gid = status.st_uid, status.st_gid
        entry.mtime = status.st_mtime_ns // 10**9
        return entry

    def _attributes(self, entry: tarfile.TarInfo, fd: int) -> None:
        kept = {}
        for name in sorted(os.listxattr(fd)):
            if name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay.")):
                kept[f"SCHILY.xattr.{name}"] = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
        entry.pax_headers = kept


def described(name: str, kind: bytes, mode: int, size: int) -> tarfile.TarInfo:
    """Return an entry that belongs to root and is dated 0; the name is as `tarfile` decodes names."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size = kind, mode, size
    return entry


def encoded(entry: tarfile.TarInfo) -> bytes:
    """Return the header blocks of an entry, in the pax format."""
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
