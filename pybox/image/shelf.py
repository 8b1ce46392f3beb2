"""Where the blobs of an archive lie: a directory, or a tar on disk, read by name."""

from __future__ import annotations

import os
import posixpath
import stat

from pybox.errors import ImageError
from pybox.image import ceilings, tape
from pybox.image.ceilings import Budget
from pybox.image.stream import CHUNK, Limited, Metered, close, compression, decompressed
from pybox.image.tape import Tape, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, Protocol

    from pybox.image.stream import Source

    class Shelf(Protocol):
        """Blobs by name."""

        def open(self, name: str) -> tuple[Source, int]:
            """Return a blob and its size in bytes. Raises ImageError when absent."""

        def has(self, name: str) -> bool:
            """Return whether there is such a blob."""

        def close(self) -> None:
            """Close what is open."""


def open_shelf(source: str, work: str) -> Shelf:
    """Open a directory, a tar (plain, gzip or zstd) or "-", standard input; ``work`` takes what can't be read in place.

    Raises ImageError.
    """
    if source != "-" and os.path.isdir(source):
        return _Folder(source)
    file = open_file(source)
    try:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and source != "-":
            head = file.read(6)
            file.seek(0)
            if not compression(head):
                return _TarFile(file)
        spooled = _spool(file, f"{work}/archive")
    except BaseException:
        file.close()
        raise
    file.close()
    return _TarFile(spooled)


def open_file(source: str) -> BinaryIO:
    """Open a file, or standard input for "-". Raises ImageError."""
    try:
        if source == "-":
            if os.isatty(0):
                raise ImageError("standard input is a terminal, not an archive", "pybox load < FILE")
            return open(os.dup(0), "rb", buffering=0)
        return open(source, "rb", buffering=0)
    except (OSError, ValueError) as error:
        raise ImageError(f"{source if source.isprintable() else ascii(source)}: {getattr(error, 'strerror', error)}") from None


def _spool(file: BinaryIO, path: str) -> BinaryIO:
    """Decompress to disk: an archive's manifest may stand at its end."""
    plain = decompressed(Metered(file))
    spooled = open(path, "x+b", buffering=0)  # noqa: SIM115
    try:
        budget = Budget(ceilings.current(), spooled.fileno())
        while data := plain.read(CHUNK):
            budget.bytes(len(data))
            view = memoryview(data)
            while view:
                view = view[spooled.write(view) :]
    except (EOFError, OSError, ValueError) as error:
        spooled.close()
        raise ImageError(f"the archive is damaged: {error}") from None
    except BaseException:
        spooled.close()
        raise
    finally:
        close(plain)
    spooled.seek(0)
    return spooled


class _Folder:
    """An OCI layout as a directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def open(self, name: str) -> tuple[Source, int]:
        try:
            file = open(f"{self._path}/{name}", "rb", buffering=0, opener=_without_waiting)  # noqa: SIM115
        except OSError as error:
            raise ImageError(f"{self._path}/{shown(name)}: {error.strerror}") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            file.close()
            raise ImageError(f"{self._path}/{shown(name)}: not a regular file")
        return file, status.st_size

    def has(self, name: str) -> bool:
        return os.path.isfile(f"{self._path}/{name}")

    def close(self) -> None:
        pass


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo would wait for a writer


class _Scan(Tape):
    """A tape over a file on disk: contents are jumped over, not read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._file = file

    def seek(self, position: int) -> None:
        if position > self._at:
            self._at = self._file.seek(position)


class _TarFile:
    """A tar on disk, read through an index of its names."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._index(file)
        except BaseException:
            file.close()
            raise

    def _index(self, file: BinaryIO) -> None:
        most = ceilings.current().entries
        try:
            for number, entry in enumerate(tape.entries(_Scan(file))):
                name = posixpath.normpath(entry.name)
                if number > most:
                    raise ImageError(f"the archive has more than {most} entries")
                if entry.issym():
                    self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.linkname))
                elif entry.islnk():
                    self._links[name] = posixpath.normpath(entry.linkname)
                elif entry.isreg() and not entry.issparse():
                    self._places[name] = (entry.offset_data, entry.size)
        except OSError as error:
            raise ImageError(f"the archive: {error.strerror}") from None

    def _place(self, name: str) -> tuple[int, int] | None:
        name = posixpath.normpath(name)
        for _ in range(8):  # docker links the layers that images share
            if name in self._places:
                return self._places[name]
            name = self._links.get(name, "")
        return None

    def open(self, name: str) -> tuple[Source, int]:
        place = self._place(name)
        if place is None:
            raise ImageError(f"the archive has no {shown(name)}")
        return Limited(_At(self._file, place[0]), place[1]), place[1]

    def has(self, name: str) -> bool:
        return self._place(name) is not None

    def close(self) -> None:
        self._file.close()


class _At:
    """A file read from a position on, whatever else reads it."""

    def __init__(self, file: BinaryIO, position: int) -> None:
        self._file = file
        self._position = position

    def read(self, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, self._position)
        self._position += len(data)
        return data
