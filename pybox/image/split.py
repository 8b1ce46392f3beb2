"""The split of a tar: everything but the file contents, which lie in the unpacked tree already.

Kept so that `save` gives back the very bytes that came in: the same diffID, the same image id, no second copy on disk. (Docker
and podman do it with tar-split; packing the tree anew would give other bytes and so another image.) The file is a gzip
stream of records:

    L <length:u32> <bytes>                                      bytes of the tar: headers, padding, the end
    C <path length:u16> <path> <offset:u64> <length:u64>        a piece of the content of fs/<path>

A file that a later entry of the same tar replaced is in old/<n>; layer.json says from which content record on (``Moved``).
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib

from pybox.errors import ImageError
from pybox.image import tree
from pybox.image.stream import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    Moved = tuple[int, bytes, int]  # content records before this one, at or below this path, are now in old/<n>


class Splitter:
    """Writes the split while the tar goes by."""

    def __init__(self, path: str) -> None:
        self._raw: BinaryIO = open(path, "xb")  # noqa: SIM115
        self._pack = zlib.compressobj(1, zlib.DEFLATED, 31)
        self._literal = bytearray()
        self.pieces = 0
        self.moved: list[Moved] = []

    def literal(self, data: bytes) -> None:
        """Keep bytes of the tar as they are."""
        self._literal += data
        if len(self._literal) >= CHUNK:
            self._flush()

    def content(self, path: bytes, offset: int, length: int) -> None:
        """Note that the next bytes of the tar are this piece of a file of the tree."""
        self._flush()
        self._write(b"C" + struct.pack(">H", len(path)) + path + struct.pack(">QQ", offset, length))
        self.pieces += 1

    def _flush(self) -> None:
        if self._literal:
            self._write(b"L" + struct.pack(">I", len(self._literal)) + self._literal)
            self._literal.clear()

    def _write(self, record: bytes) -> None:
        self._raw.write(self._pack.compress(record))

    def close(self) -> None:
        """Write the end; the split is complete."""
        self._flush()
        self._raw.write(self._pack.flush())
        self._raw.close()

    def abandon(self) -> None:
        """Close the file without completing it. What it could not write (a full disk) has been reported, or is not missed."""
        try:
            self._raw.close()
        except OSError:
            pass


def joined(layer: str, moved: Sequence[Moved]) -> Iterator[bytes]:
    """Yield the tar of the layer directory ``layer`` (with fs/, old/ and split.gz), in pieces.

    Raises ImageError when the tree no longer has what the split refers to. Whether the bytes are right is for the caller's
    digest to say.
    """
    root = os.open(f"{layer}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    old = os.open(f"{layer}/old", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        piece = 0
        with gzip.open(f"{layer}/split.gz", "rb") as split:
            while kind := split.read(1):
                if kind == b"L":
                    (length,) = struct.unpack(">I", split.read(4))
                    yield split.read(length)
                    continue
                path = split.read(struct.unpack(">H", split.read(2))[0])
                offset, length = struct.unpack(">QQ", split.read(16))
                folder, path = _where(root, old, path, piece, moved)
                yield from _content(folder, path, offset, length)
                piece += 1
    except (OSError, EOFError, struct.error) as error:
        raise ImageError(f"{layer}: the layer is damaged: {error}", "remove the image and load it again") from None
    finally:
        os.close(root)
        os.close(old)


def _where(root: int, old: int, path: bytes, piece: int, moved: Sequence[Moved]) -> tuple[int, bytes]:
    for before, place, number in moved:  # in order of time, so the first that fits is the first move
        if piece < before and (path == place or path.startswith(place + b"/")):
            return old, b"%d" % number + path[len(place) :]
    return root, path


def _content(root: int, path: bytes, offset: int, length: int) -> Iterator[bytes]:
    *folders, name = path.split(b"/")
    folder = tree.descend(root, folders)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        while length:
            data = os.pread(fd, min(length, CHUNK), offset)
            if not data:
                raise EOFError(f"{path!a} is shorter than it was")
            yield data
            offset, length = offset + len(data), length - len(data)
    finally:
        os.close(fd)
