"""Sources: which files of a context or of another stage COPY and ADD mean, and a digest of what they are.

A source lies below one open directory. Paths are walked name by name from there, as if it were /: a symbolic link, absolute or
with "..", leads to what it would in a root of its own and never out of it, whoever changes it meanwhile (CVE-2018-15664 is about
the other way). From there on no link is followed at all (files/taking.py).
"""

from __future__ import annotations

import hashlib
import os
import stat

from pybox.containerfile.ignore import Ignore, matches
from pybox.containerfile.words import WordError
from pybox.errors import PyboxError
from pybox.files.taking import Taker
from pybox.files.worker import Notes, Reader, Worker, chunks_of, write
from pybox.image import tape as tapes
from pybox.image.pack import END
from pybox.image.tape import Tape, shown
from pybox.image.tree import Cursor, descend
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator

_LINKS = 40  # as the kernel's own MAXSYMLINKS


class Root(Record):
    """Where sources are: a context, or the tree of a stage or an image."""

    fd: int  # of its directory
    userns: int = -1  # the user namespace whose root reads it, -1: the caller
    ignore: Ignore = Ignore()
    keep: bool = False  # owners come along: it is an image


class Pick(Record):
    """One file or directory that is meant."""

    path: tuple[bytes, ...]  # below the root, no link in it
    name: bytes  # what it is called where it is copied into a directory; b"" for a root
    directory: bool


def resolved(root: int, path: str) -> tuple[list[bytes], os.stat_result | None]:
    """Return the names of a path below an open directory, all links followed, and what is there (None: nothing yet).

    Raises OSError: ENOTDIR, ELOOP.
    """
    waiting = os.fsencode(path).split(b"/")[::-1]
    names: list[bytes] = []
    links, cursor = 0, Cursor(root)
    try:
        status: os.stat_result | None = os.stat(root)
        while waiting:
            part = waiting.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del names[-1:]
                status = _status(cursor, names[:-1], names[-1]) if names else os.stat(root)
                continue
            found = _status(cursor, names, part) if status is not None else None
            if found is not None and stat.S_ISLNK(found.st_mode):
                links += 1
                if links > _LINKS:
                    raise OSError(40, os.strerror(40))
                target = os.readlink(part, dir_fd=_at(cursor, names))
                if target.startswith(b"/"):
                    names, status = [], os.stat(root)
                waiting += target.split(b"/")[::-1]
                continue
            if found is not None and not stat.S_ISDIR(found.st_mode) and any(rest not in (b"", b".") for rest in waiting):
                raise OSError(20, os.strerror(20))
            names.append(part)
            status = found
        return names, status
    finally:
        cursor.close()


def _at(cursor: Cursor, names: list[bytes]) -> int:
    here = cursor.at(names)
    while here is None or cursor.depth < len(names):
        here = cursor.enter(names[cursor.depth])
    return here


def _status(cursor: Cursor, names: list[bytes], name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=_at(cursor, names), follow_symlinks=False)
    except FileNotFoundError:
        return None


def picks(root: Root, wanted: list[str]) -> list[Pick]:
    """Return what some paths mean, wildcards included. Raises WordError for one that means nothing."""
    found = list[Pick]()
    for path in wanted:
        matched = list(_matched(root, path)) if any(char in path for char in "*?[\\") else [path]
        if not matched:
            raise WordError(f"{path}: matches nothing" + (" that .dockerignore lets through" if root.ignore.patterns else ""))
        found += [_pick(root, each) for each in matched]
    return found


def _pick(root: Root, path: str) -> Pick:
    try:
        names, status = resolved(root.fd, path)
    except OSError as error:
        raise WordError(f"{path}: {error.strerror}") from None
    real = os.fsdecode(b"/".join(names))
    if status is None:
        raise WordError(f"{path}: no such file or directory" + ("" if root.keep else " in the build context"))
    directory = stat.S_ISDIR(status.st_mode)
    if real and root.ignore.excluded(real) and not (directory and root.ignore.worth_entering(real)):
        raise WordError(f"{path}: left out by .dockerignore")
    name = next((part for part in reversed(os.fsencode(path).split(b"/")) if part not in (b"", b".")), b"")
    return Pick(tuple(names), b"" if name == b".." else name, directory)


def _matched(root: Root, pattern: str) -> Iterator[str]:
    """Yield the paths that a pattern with wildcards means, sorted, part by part."""
    waiting = [""]
    for part in (part for part in pattern.split("/") if part not in ("", ".")):
        found = []
        for path in waiting:
            names, status = resolved(root.fd, path)
            if status is None or not stat.S_ISDIR(status.st_mode):
                continue
            folder = descend(root.fd, names)
            try:
                listed = sorted(os.listdir(folder))
            finally:
                os.close(folder)
            try:
                found += [f"{path}/{name}".lstrip("/") for name in listed if matches(part, name)]
            except ValueError as error:
                raise WordError(f"{pattern}: not a pattern: {error}") from None
        waiting = found
    for path in waiting:
        if not root.ignore.excluded(path):
            yield path


class Entry(Record):
    """One entry of what is taken: of which pick, its names below it, the entry as the tar has it."""

    pick: int
    names: tuple[bytes, ...]
    info: tarfile.TarInfo
    left_out: bool = False  # a directory that is only there for what is below it


class Stream:
    """The files of some picks, read forward: ``with Stream(root, picks, notes) as stream: for entry in stream.entries()``."""

    def __init__(self, root: Root, chosen: list[Pick], notes: Notes) -> None:
        self._root, self._picks = root, chosen
        self._worker = Worker(root.userns, self._send, sends=True, notes=notes)
        self._hash = hashlib.sha256()

    def __enter__(self) -> Stream:
        self._source = Reader(self._worker.__enter__())
        self._tape = Tape(self._source, hashed=False)
        return self

    def __exit__(self, *problem: object) -> None:
        self._worker.__exit__(*problem)  # type: ignore[arg-type]

    def _send(self, fd: int, notes: Notes) -> None:
        said = Notes()
        taker = Taker(said, strict=not self._root.keep, skip=self._skip if self._root.ignore.patterns else None)
        for number, pick in enumerate(self._picks):
            thing = self._open(pick)
            try:
                write(fd, (chunk for chunk in taker.tar(thing, b"%d" % number) if chunk is not END))
            except PyboxError as error:
                raise PyboxError(self._named(error.message), error.hint) from None
            finally:
                os.close(thing)
        write(fd, (END,))
        for line in said.all():
            notes.add(self._named(line))

    def _open(self, pick: Pick) -> int:
        if not pick.path:
            return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root.fd)
        folder = descend(self._root.fd, pick.path[:-1])
        try:
            return os.open(pick.path[-1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)

    def _named(self, text: str) -> str:
        """Return what the taker says with the path in the context for its own."""
        number = text[: len(text) - len(text.lstrip("0123456789"))]
        return shown(self._path(int(number), ())) + text[len(number) :] if number else text

    def _path(self, pick: int, names: tuple[bytes, ...]) -> str:
        return os.fsdecode(b"/".join((*self._picks[pick].path, *names)))

    def _skip(self, full: bytes, directory: bool) -> bool:
        pick, names = self.place(full)
        path, ignore = self._path(pick, names), self._root.ignore
        return ignore.excluded(path) and not (directory and ignore.worth_entering(path))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries; the content of each is to be read, or thrown away, before the next one. Raises PyboxError."""
        for info in tapes.entries(self._tape):
            pick, names = self.place(tapes.raw(info.name))
            left_out = bool(names and self._root.ignore.patterns) and self._root.ignore.excluded(self._path(pick, names))
            if not self._root.keep:
                info.uid = info.gid = 0
                # what these grant, they grant in the name of the owner, who is another here
                info.mode &= 0o1777
                kept = info.pax_headers.items()
                info.pax_headers = {key: value for key, value in kept if key != "SCHILY.xattr.security.capability"}
            self._note(pick, names, info)
            yield Entry(pick, names, info, left_out)
        for _ in chunks_of(self._source):  # so that the worker does not think that we have died
            pass

    def place(self, name: bytes) -> tuple[int, tuple[bytes, ...]]:
        """Return (pick, names below it) of a name in the tar."""
        number, *names = name.rstrip(b"/").split(b"/")
        return int(number), tuple(names)

    def content(self, info: tarfile.TarInfo) -> Iterator[bytes]:
        """Yield the data of an entry, holes left out."""
        for data in tapes.content(self._tape, info):
            self._hash.update(data)
            yield data

    def _note(self, pick: int, names: tuple[bytes, ...], info: tarfile.TarInfo) -> None:
        """Let an entry count for the digest: everything but times, which a checkout sets anew each time."""
        facts = (
            pick, names, info.type, info.mode, info.uid, info.gid, info.size, info.linkname, info.devmajor, info.devminor,
            tapes.xattrs(info), tapes.pieces(info) if info.isreg() else (),
        )  # fmt: skip
        self._hash.update(repr(facts).encode("utf-8", "surrogateescape") + b"\n")

    def digest(self) -> str:
        """Return the digest of all that was read."""
        return self._hash.hexdigest()


def digest(root: Root, chosen: list[Pick]) -> str:
    """Return the digest of what some picks are right now. Raises PyboxError."""
    with Stream(root, chosen, Notes()) as stream:
        for entry in stream.entries():
            for _ in stream.content(entry.info):
                pass
        return stream.digest()


def open_file(root: Root, pick: Pick) -> int:
    """Return an fd of a regular file that was picked, to be read. Raises OSError."""
    folder = descend(root.fd, pick.path[:-1])
    try:
        fd = os.open(pick.path[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "it is no regular file any more")
    return fd
