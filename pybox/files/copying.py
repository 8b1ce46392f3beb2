"""cp: between the host and a container, with docker's rules of what the destination means (place.py)."""

from __future__ import annotations

import itertools
import os
import zlib

from pybox.errors import PyboxError
from pybox.files.place import Place
from pybox.files.putting import Putter
from pybox.files.reach import Reach, is_directory
from pybox.files.taking import Taker
from pybox.files.worker import Notes, Reader, Worker, chunks_of, pour, write
from pybox.image import tape as tapes
from pybox.image.shelf import open_file
from pybox.image.stream import Metered, close, decompressed
from pybox.image.tape import Tape
from pybox.record import Record
from pybox.whole import replacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterable

    from pybox.image.stream import Source


class Wish(Record):
    """How to copy."""

    archive: bool = False  # keep owners (numbers as the container sees them), set-user-ID bits and capabilities
    follow: bool = False  # copy what the named source leads to, not the link


def base_of(path: str) -> bytes:
    """Return the name under which a source is copied into a directory; b"" for a root."""
    name = os.path.basename(os.path.normpath(path))
    return b"" if name in (".", "..") else os.fsencode(name)


def _contents(path: str) -> bool:
    return path.endswith("/.") or path == "."


def copy_out(reach: Reach, path: str, to: str, wish: Wish) -> list[str]:
    """Copy from a container to the host; "-" writes a tar to standard output. Returns what is to be noted. Raises PyboxError."""
    notes = Notes()
    base = base_of(path)
    name = b"." if to != "-" or _contents(path) or not base else base

    def send(fd: int, inner: Notes) -> None:
        thing = Place(reach.root).source(path, wish.follow)
        if os.fstat(thing).st_dev in reach.mounts.kernels and is_directory(thing):
            raise PyboxError(f"{tapes.shown(path)}: belongs to the kernel's own file systems")
        write(fd, Taker(inner, reach.mounts.kernels).tar(thing, name))

    with Worker(reach.userns, send, sends=True, notes=notes) as fd:
        if to == "-":
            pour(fd, 1)
        else:
            owner = None  # the caller is whom they belong to
            _put(Reader(fd), Place(), to, base, notes, wish, owner, contents=_contents(path))
    return notes.all()


def copy_in(reach: Reach, path: str, to: str, wish: Wish) -> list[str]:
    """Copy from the host into a container; "-" reads a tar from standard input. Returns what is to be noted. Raises PyboxError."""
    notes = Notes()
    base = base_of(os.path.abspath(path)) if path != "-" else b""

    def receive(fd: int, inner: Notes) -> None:
        place, source = Place(reach.root), Reader(fd)
        if path != "-":
            _put(source, place, to, base, inner, wish, (0, 0), contents=_contents(path))
            return
        folder = place.folder(to)
        tape = Tape(source, hashed=False)
        _run(Putter(tape, folder, [], inner, keep=wish.archive, owner=(0, 0)), tapes.entries(tape), source)

    if path == "-":
        with open_file("-") as file, Worker(reach.userns, receive, sends=False, notes=notes) as fd:
            plain = decompressed(Metered(file))
            try:
                write(fd, chunks_of(plain))
            except (EOFError, zlib.error) as error:
                raise PyboxError(f"standard input is damaged: {error}") from None
            finally:
                close(plain)
        return notes.all()
    thing = Place().source(path, wish.follow)  # before anything is begun: most mistakes are here
    try:
        with Worker(reach.userns, receive, sends=False, notes=notes) as fd:
            write(fd, Taker(notes, strict=True).tar(thing, b"."))
    finally:
        os.close(thing)
    return notes.all()


def _put(
    source: Source, place: Place, to: str, base: bytes, notes: Notes, wish: Wish, owner: tuple[int, int] | None, *, contents: bool
) -> None:
    """Unpack a tar whose root is the source, whatever its name."""
    tape = Tape(source, hashed=False)
    entries = tapes.entries(tape)
    first = next(entries, None)
    if first is None:  # a socket
        return
    folder, prefix = place.landing(to, base, first.isdir(), contents)
    _run(Putter(tape, folder, prefix, notes, keep=wish.archive, owner=owner), itertools.chain((first,), entries), source)
    os.close(folder)


def _run(putter: Putter, entries: Iterable[tarfile.TarInfo], source: Source) -> None:
    try:
        putter.run(entries)
        for _ in chunks_of(source):  # what follows the end of a tar: the writer must not think that we have died
            pass
    finally:
        putter.close()


def export(reach: Reach, fd: int) -> list[str]:
    """Write the whole root of a container as a tar: of mounts only the mount points. Returns what is to be noted."""
    notes = Notes()

    def send(out: int, inner: Notes) -> None:
        closed = frozenset((b"./proc", b"./sys", b"./dev", *(b"." + path for path in reach.mounts.paths)))
        write(out, Taker(inner, reach.mounts.others, closed).tar(reach.root, b"."))

    with Worker(reach.userns, send, sends=True, notes=notes) as source:
        pour(source, fd)
    return notes.all()


def export_to(reach: Reach, path: str) -> list[str]:
    """As ``export``, to a file that appears under its name only when it is complete. Raises PyboxError."""
    try:
        with replacing(path) as fd:
            return export(reach, fd)
    except OSError as error:
        raise PyboxError(f"{tapes.shown(path)}: {error.strerror}") from None
