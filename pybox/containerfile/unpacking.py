"""ADD of a tar: its entries come to lie below the destination, each believed no more than a layer's."""

from __future__ import annotations

import tarfile
import zlib

from pybox.containerfile.landing import Item
from pybox.errors import PyboxError
from pybox.image import tape as tapes
from pybox.image.stream import Metered, close, compression, decompressed
from pybox.image.tape import Tape, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from pybox.image.stream import Source


class Archive:
    """A tar in the context, held open from the moment its digest was taken."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        file.seek(0)
        meter = Metered(file)
        meter.drain()
        self.digest = meter.digest()

    def close(self) -> None:
        """Let go of it."""
        self._file.close()

    def items(self, below: tuple[bytes, ...]) -> Iterator[Item]:
        """Yield what is in it, to be put below a directory of the image. Raises PyboxError naming the entry that can't be."""
        self._file.seek(0)
        meter = Metered(self._file)
        plain = _plain(meter)
        tape = Tape(plain, hashed=False)
        try:
            for info in tapes.entries(tape):
                names = self._names(info.name)
                link = (*below, *self._names(info.linkname)) if info.islnk() else ()
                yield Item((*below, *names), info, tapes.content(tape, info), link, top=not names)
            meter.drain()
        except (EOFError, zlib.error) as error:
            raise PyboxError(f"{shown(self._name)}: damaged: {error}") from None
        finally:
            close(plain)
        if meter.digest() != self.digest:
            raise PyboxError(f"{shown(self._name)}: it changed while it was read", "try again")

    def _names(self, name: str) -> tuple[bytes, ...]:
        names = tuple(part for part in tapes.raw(name).split(b"/") if part not in (b"", b"."))  # an absolute one is below, too
        if b".." in names:
            raise PyboxError(f"{shown(self._name)}: {shown(name)}: the path leaves the directory")
        return names


def archive(fd: int, name: str) -> Archive | None:
    """Return the archive that a file is, None when it is none; the fd is closed then. By its content, never by its name."""
    file = open(fd, "rb", buffering=0)  # noqa: SIM115
    try:
        plain = _plain(Metered(file))
        try:
            head = b""
            while len(head) < 512 and (more := plain.read(512 - len(head))):
                head += more
        finally:
            close(plain)
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        return Archive(file, name)
    except (tarfile.TarError, EOFError, zlib.error):
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _plain(meter: Metered) -> Source:
    kind = compression(meter.peek(6))
    if kind == "xz":
        import lzma

        return _Foreign(lzma.LZMAFile(meter), lzma.LZMAError)  # type: ignore[arg-type]
    if kind == "bzip2":
        import bz2

        return _Foreign(bz2.BZ2File(meter), OSError)  # type: ignore[call-overload]
    return decompressed(meter)


class _Foreign:
    """A decompressor of the library, its own error made one that everybody knows."""

    def __init__(self, file: Source, error: type[Exception]) -> None:
        self._file, self._error = file, error

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except self._error as error:
            raise EOFError(str(error)) from None

    def close(self) -> None:
        close(self._file)
