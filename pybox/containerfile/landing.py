"""Landing: what was taken becomes one more layer, each entry where the image, as it is so far, has a place for it.

Nothing is written into a mounted tree: the layer is a tar, and the unpacker of all layers believes it as little as any other
(image/layer.py). The image's tree is only looked at, name by name and through no link; it is read-only and nobody's to change. A
directory that it has keeps its owner and mode, for a layer says them anew; and neither a directory nor a file becomes the other,
nor a link (/lib, most of the time) a directory.
"""

from __future__ import annotations

import os
import stat
import tarfile

from pybox.containerfile.sources import Pick, resolved
from pybox.containerfile.words import WordError
from pybox.errors import PyboxError
from pybox.files.taking import make_sparse
from pybox.image import tape as tapes
from pybox.image.pack import END, described, encoded, padding
from pybox.image.tape import shown
from pybox.image.tree import Cursor
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Names = tuple[bytes, ...]


class Wish(Record):
    """How what is copied is to look. ``latest``: no time in the layer is later (SOURCE_DATE_EPOCH)."""

    owner: tuple[int, int] | None = None
    mode: int | None = None
    now: int = 0  # seconds since the epoch: the time of directories that are made
    latest: int | None = None


class Item(Record):
    """One thing to be put at a place in the image."""

    names: Names
    info: tarfile.TarInfo
    content: Iterable[bytes] = ()
    link: Names = ()  # of a hard link
    top: bool = False  # the directory itself whose contents were asked for
    left_out: bool = False  # a directory that is only there for what is below it


class Landing:
    """Writes one layer on top of the tree below ``root``, an open directory. ``top`` is what / is in the image."""

    def __init__(self, root: int, wish: Wish, top: os.stat_result | None = None) -> None:
        self._root, self._wish, self._top = root, wish, top
        self._cursor = Cursor(root)
        self._folders: set[Names] = set()  # that are in the layer already
        self._others: set[Names] = set()  # what is in it and no directory
        self._waiting: dict[Names, tarfile.TarInfo] = {}

    def close(self) -> None:
        """Close what is open."""
        self._cursor.close()

    def layer(self, items: Iterable[Item]) -> Iterator[bytes]:
        """Yield the tar. Raises PyboxError for what has no place."""
        yield from self._folder(())
        for item in items:
            yield from self._put(item)
        yield END

    def _put(self, item: Item) -> Iterator[bytes]:
        info = item.info
        if item.left_out:
            self._waiting[item.names] = info
            return
        if any(name.startswith(b".wh.") for name in item.names):
            raise PyboxError(f"{_path(item.names)}: a name that starts with .wh. means a whiteout in a layer", "rename it")
        there = self._status(item.names)
        if info.isdir():
            if item.names in self._others or (there is not None and not stat.S_ISDIR(there.st_mode)):
                what = "a symbolic link" if there is not None and stat.S_ISLNK(there.st_mode) else "a file"
                raise PyboxError(f"{_path(item.names)}: cannot put a directory where the image has {what}", _LINKED)
            if item.top:  # its contents were asked for: where they go is the image's own, or a new one like any other
                yield from self._folder(item.names)
                return
            yield from self._above(item.names)
            self._folders.add(item.names)
            yield self._header(item.names, info)
            return
        if item.names in self._folders or (there is not None and stat.S_ISDIR(there.st_mode)):
            raise PyboxError(f"{_path(item.names)}: cannot overwrite a directory with what is none", "name another place")
        yield from self._above(item.names)
        self._others.add(item.names)
        if info.islnk():
            info.linkname = b"/".join(item.link).decode("utf-8", "surrogateescape")
        yield self._header(item.names, info)
        yield from item.content
        yield ending(info)

    def _above(self, names: Names) -> Iterator[bytes]:
        for depth in range(1, len(names)):
            yield from self._folder(names[:depth])

    def _folder(self, names: Names) -> Iterator[bytes]:
        """Yield a directory as it is in the image, or a new one, unless the layer has it; and what is above it."""
        if names in self._folders:
            return
        if names in self._others:
            raise PyboxError(f"{_path(names)}: its path goes through what is no directory (a symbolic link?)")
        if names:
            yield from self._folder(names[:-1])
        self._folders.add(names)
        there = self._status(names)
        if there is not None and not stat.S_ISDIR(there.st_mode):
            raise PyboxError(f"{_path(names)}: the image has no directory there", _LINKED)
        if there is not None:
            yield self._encoded(names, as_it_is(there))
        elif names in self._waiting:
            yield self._header(names, self._waiting[names])
        else:
            info = described("", tarfile.DIRTYPE, 0o755, 0)
            info.uid, info.gid = self._wish.owner or (0, 0)
            info.mtime = self._wish.now
            yield self._encoded(names, info)

    def _status(self, names: Names) -> os.stat_result | None:
        """Return what the image has there; None also where it has no directory to look into."""
        try:
            if not names:
                return self._top or os.stat(self._root)
            here = self._cursor.at(names[:-1])
            while here is None or self._cursor.depth < len(names) - 1:
                here = self._cursor.enter(names[self._cursor.depth])
            return os.stat(names[-1], dir_fd=here, follow_symlinks=False)
        except OSError as error:
            if error.errno in (2, 20, 40):  # ENOENT, ENOTDIR, ELOOP: then what is above it is refused
                return None
            raise

    def _header(self, names: Names, info: tarfile.TarInfo) -> bytes:
        if self._wish.owner is not None:
            info.uid, info.gid = self._wish.owner
        if self._wish.mode is not None and not info.issym():
            info.mode = self._wish.mode
        return self._encoded(names, info)

    def _encoded(self, names: Names, info: tarfile.TarInfo) -> bytes:
        return rewritten(info, b"/".join(names) or b".", self._wish.latest)


_LINKED = "name the place that the link leads to; a copy does not turn one into the other"


def _path(names: Names) -> str:
    return shown(b"/" + b"/".join(names))


def as_it_is(there: os.stat_result) -> tarfile.TarInfo:
    """Return the entry of a directory of an image. A plain user owns all that is in his store: it is root's inside."""
    info = described("", tarfile.DIRTYPE, stat.S_IMODE(there.st_mode), 0)
    if os.geteuid() == 0:
        info.uid, info.gid = there.st_uid, there.st_gid
    info.mtime = there.st_mtime_ns // 10**9
    return info


def rewritten(info: tarfile.TarInfo, name: bytes, latest: int | None) -> bytes:
    """Return the header of an entry that came out of a tar, under a name, and dated no later than ``latest`` (seconds)."""
    made = described((name + b"/" * info.isdir()).decode("utf-8", "surrogateescape"), info.type, info.mode, info.size)
    made.uid, made.gid, made.linkname, made.devmajor, made.devminor = (
        info.uid,
        info.gid,
        info.linkname,
        info.devmajor,
        info.devminor,
    )
    nanoseconds = tapes.mtime_ns(info)
    if latest is not None and nanoseconds > latest * 10**9:
        nanoseconds = latest * 10**9
    made.mtime, part = divmod(nanoseconds, 10**9)
    kept = {key: value for key, value in info.pax_headers.items() if key.startswith("SCHILY.xattr.")}
    made.pax_headers = kept | ({"mtime": f"{made.mtime}.{part:09}"} if part and nanoseconds > 0 else {})
    if not info.issparse():
        return encoded(made)
    made.type = tarfile.REGTYPE
    pieces = tapes.pieces(info)
    start = make_sparse(made, pieces, info.size)
    made.size = len(start) + sum(length for _, length in pieces)
    return encoded(made) + start


def ending(info: tarfile.TarInfo) -> bytes:
    """Return what follows the content of a ``rewritten`` entry."""
    return padding(sum(length for _, length in tapes.pieces(info))) if info.isreg() else b""


def destination(root: int, workdir: str, wanted: str, chosen: list[Pick], more: int) -> tuple[Names, bool]:
    """Return where a copy goes in the tree below an open directory, and whether that is a directory.

    Links are followed, the last one included; ``more`` files come beside the picks. Raises WordError.
    """
    path = f"{workdir}/{wanted}" if not wanted.startswith("/") else wanted
    try:
        names, there = resolved(root, path)
    except OSError as error:
        raise WordError(f"{wanted}: {error.strerror}") from None
    exists = there is not None and stat.S_ISDIR(there.st_mode)
    directory = exists or wanted.endswith(("/", "/.")) or wanted in (".", "..")
    if len(chosen) + more > 1 and not directory:
        raise WordError(f"{wanted}: more than one source needs a directory to go to, write {wanted}/")
    if there is not None and not exists and (directory or any(pick.directory for pick in chosen)):
        raise WordError(f"{wanted}: the image has a file there")
    return tuple(names), directory
