"""A tar read forward, header by header. `tarfile` parses the headers and does nothing else: it never sees a file system.

The Tape stands between the stream and `tarfile`: it hashes all bytes (the diffID), hands what is not file content to the
splitter, and bounds what a header may make us read. tar(5), pax in POSIX.1-2017 "pax Interchange Format".
"""

from __future__ import annotations

import hashlib
import struct
import tarfile
import zlib

from pybox.errors import ImageError
from pybox.image.stream import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.image.split import Splitter
    from pybox.image.stream import Source

HEADER_MAX = 1 << 20  # bytes of one entry's headers: names of 4 KB and a few extended attributes of 64 KB
_XATTR = "SCHILY.xattr."


class Tape:
    """The file object that `tarfile` reads headers from, and we read contents from."""

    def __init__(self, source: Source, split: Splitter | None = None, *, hashed: bool = True) -> None:
        self._source = source
        self._split = split
        self._hash = hashlib.sha256()
        self._hashed = hashed  # whether anybody will ask for the digest
        self._at = 0
        self._header = 0
        self.last_block = b""

    def tell(self) -> int:
        """Return how many bytes of the tar have been read."""
        return self._at

    def seek(self, position: int) -> None:
        """Go forward to ``position``; what lies between is kept as literal bytes."""
        while self._at < position and self.read(min(position - self._at, CHUNK)):
            pass

    def read(self, size: int) -> bytes:
        """Read ``size`` literal bytes (headers, padding); fewer only at the end. Raises ImageError for an absurd header."""
        self._header += size
        if self._header > HEADER_MAX:
            raise ImageError(f"a header of more than {HEADER_MAX >> 10} KB at byte {self._at}")
        data = self._exactly(size)
        self.last_block = data
        if self._split is not None:
            self._split.literal(data)
        return data

    def content(self, size: int) -> bytes:
        """Read ``size`` bytes of file content, not kept as literal. Raises EOFError at the end."""
        data = self._exactly(size)
        if len(data) < size:
            raise EOFError("it ends in the middle of this file")
        return data

    def literal(self, size: int) -> bytes:
        """As ``content``, for content that the tree won't give back: kept as literal bytes."""
        data = self.content(size)
        if self._split is not None:
            self._split.literal(data)
        return data

    def next_entry(self) -> None:
        """Start the count of header bytes anew."""
        self._header = 0

    def drain(self, most: int) -> None:
        """Read what follows the end of the archive (padding belongs to the digest), at most ``most`` bytes."""
        start = self._at
        while True:
            self._header = 0
            if not self.read(CHUNK):
                return
            if self._at - start > most:
                raise ImageError(f"more than {most >> 20} MB behind the end of the archive")

    def digest(self) -> str:
        """Return the sha256 of all bytes so far, as "sha256:<hex>"."""
        return f"sha256:{self._hash.hexdigest()}"

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) < size and data:
            parts = [data]
            missing = size - len(data)
            while missing and (more := self._source.read(missing)):
                parts.append(more)
                missing -= len(more)
            data = b"".join(parts)
        if self._hashed:
            self._hash.update(data)
        self._at += len(data)
        return data


def entries(tape: Tape) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of a tar; the caller reads each content before it asks for the next entry.

    Raises ImageError for anything that is no well-formed tar up to its end.
    """
    tar: tarfile.TarFile | None = None
    last = ""
    try:
        tar = tarfile.TarFile(fileobj=tape, mode="r", encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        while (entry := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
            tape.next_entry()
            last = entry.name
            if entry.size < 0 or entry.offset_data < 0:
                raise ImageError(f"{shown(last)}: its size is negative")
            yield entry
    except ImageError:
        raise
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ImageError(f"damaged at or after {shown(last)}: {error}" if last else f"not a tar: {error}") from None
    except (ValueError, OverflowError, IndexError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise ImageError(f"damaged at or after {shown(last)}: its header makes no sense: {error}") from None
    # tarfile takes a broken or missing header for the end; the end is a block of zeros, or the very end of the bytes.
    if tape.last_block and (len(tape.last_block) != 512 or tape.last_block.strip(b"\0")):
        raise ImageError(f"not a tar header, or cut short, at byte {tape.tell() - len(tape.last_block)} (after {shown(last)})")


def pieces(entry: tarfile.TarInfo) -> list[tuple[int, int]]:
    """Return (offset, length) of the data pieces of a regular file. Raises ImageError when a sparse map makes no sense."""
    if not entry.issparse():
        return [(0, entry.size)] if entry.size else []
    given: list[tuple[int, int]] = entry.sparse or []  # type: ignore[assignment]
    found = [piece for piece in given if piece[1]]  # the old GNU header has unused slots of 0, 0
    end = 0
    for offset, length in found:
        if offset < end or length < 0 or offset + length > entry.size:
            raise ImageError(f"{shown(entry.name)}: its map of holes makes no sense")
        end = offset + length
    return found


def content(tape: Tape, entry: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield the data of the entry that was read last, piece after piece; nothing where it is no regular file."""
    for _, length in pieces(entry) if entry.isreg() else ():
        left = length
        while left:
            data = tape.content(min(left, CHUNK))
            left -= len(data)
            yield data


def mtime_ns(entry: tarfile.TarInfo) -> int:
    """Return the modification time in ns since the epoch, exact also where pax gives fractions. Raises ImageError."""
    text = entry.pax_headers.get("mtime")
    if text is None:
        return int(entry.mtime) * 10**9
    whole, _, fraction = text.partition(".")
    try:
        if fraction and not (fraction.isascii() and fraction.isdigit()):
            raise ValueError
        seconds = int(whole or "0")
    except ValueError:
        raise ImageError(f"{shown(entry.name)}: its time {text[:40]!a} is not a number") from None
    part = int(fraction[:9].ljust(9, "0"))
    return seconds * 10**9 + (-part if whole.startswith("-") else part)


def xattrs(entry: tarfile.TarInfo) -> list[tuple[str, bytes]]:
    """Return the extended attributes that an entry carries, as (name, value)."""
    found = []
    for key, value in entry.pax_headers.items():
        if key.startswith(_XATTR):
            found.append((key[len(_XATTR) :], raw(value)))
    return sorted(found)


def raw(text: str) -> bytes:
    """Return the bytes that stand in the tar for a text that `tarfile` decoded."""
    return text.encode("utf-8", "surrogateescape")


def shown(name: str | bytes) -> str:
    """Return a name from an archive as it may be printed: no control characters, no more than 200 characters."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:1000])
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"
