"""Byte streams of archives: metered, decompressed, and read forward once.

A ``Source`` is anything with ``read(size) -> bytes`` (fewer bytes than asked are fine, none means the end). gzip (RFC 1952),
zstd (RFC 8878) and plain data are told apart by their first bytes, never by a name or a media type. Output is produced on
demand only, so a bomb costs no memory and stops at the reader's ceiling.
"""

from __future__ import annotations

import hashlib
import zlib

from pybox.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Source(Protocol):
        """A stream that is read forward."""

        def read(self, size: int, /) -> bytes: ...


CHUNK = 1 << 18

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)


class Metered:
    """A source that counts and hashes what passes, and lets the first bytes be seen before they are read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead = b""
        self._hash = hashlib.sha256()
        self.count = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes without consuming them; fewer only at the end."""
        while len(self._ahead) < size and (more := self._source.read(CHUNK)):
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._source.read(size)
        self._hash.update(data)
        self.count += len(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read(CHUNK):
            pass

    def digest(self) -> str:
        """Return the sha256 of what was read so far, as "sha256:<hex>"."""
        return f"sha256:{self._hash.hexdigest()}"


class Limited:
    """The next ``size`` bytes of a source."""

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._left = size

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; raises EOFError when the source ends before the promised size."""
        data = self._source.read(min(size, self._left))
        if not data and self._left and size:
            raise EOFError("it ends too early")
        self._left -= len(data)
        return data


class Chunks:
    """An iterator of byte strings as a source."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes."""
        while not self._rest:
            try:
                self._rest = memoryview(next(self._chunks))
            except StopIteration:
                return b""
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)


def compression(head: bytes) -> str:
    """Return "gzip", "zstd", "xz", "bzip2" or "" by the first six bytes."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    return ""


def decompressed(source: Metered) -> Source:
    """Return the plain data of a source. Raises ImageError for a compression pybox does not read."""
    kind = compression(source.peek(6))
    if kind == "gzip":
        return _Gunzip(source)
    if kind == "zstd":
        return _unzstd(source)
    if kind:
        raise ImageError(f"compressed with {kind}, which images don't use", f"decompress it first: {kind} -dc FILE | pybox ... -")
    return source


def close(source: Source) -> None:
    """Let go of a source: a file, or what ``decompressed`` started. Sources that hold nothing have no ``close``."""
    held = getattr(source, "close", None)
    if held is not None:
        held()


class _Gunzip:
    """gzip in large steps; the gzip module works in 8 KiB ones, at a third of the speed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._member = zlib.decompressobj(31)
        self._rest = b""

    def read(self, size: int) -> bytes:
        while True:
            feed = self._rest or self._source.read(CHUNK)
            if self._member.eof:  # another member, padding, or the end
                feed = feed.lstrip(b"\0")
                if not feed:
                    if self._rest:
                        self._rest = b""
                        continue
                    return b""
                self._member = zlib.decompressobj(31)
            data = self._member.decompress(feed, size)
            self._rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if data:
                return data
            if not feed and not self._member.eof:
                raise EOFError("the gzip stream is cut short")


def _unzstd(source: Source) -> Source:
    try:
        from compression.zstd import ZstdFile  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
    except ImportError:
        try:
            from backports.zstd import ZstdFile
        except ImportError:
            return _Program(source, ("zstd", "-dcq"))
    return _Zstd(ZstdFile(source))


class _Zstd:
    """The library's own error type, as one that everybody knows."""

    def __init__(self, file: Source) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (OSError, EOFError, ImageError):
            raise
        except Exception as error:  # ZstdError, whose module depends on the Python version
            raise EOFError(f"the zstd stream is damaged: {error}") from None


def compressed(kind: str, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the data compressed with "gzip" or "zstd"; the same bytes every time. Raises ImageError where zstd is absent."""
    if kind == "zstd":
        try:
            from compression.zstd import ZstdCompressor  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            try:
                from backports.zstd import ZstdCompressor
            except ImportError:
                yield from _piped(_Program(Chunks(chunks), ("zstd", "-cq")))
                return
        packer = ZstdCompressor()
    else:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    for chunk in chunks:
        if data := packer.compress(chunk):
            yield data
    yield packer.flush()


def _piped(program: _Program) -> Iterator[bytes]:
    try:
        while data := program.read(CHUNK):
            yield data
    finally:
        program.close()


class _Program:
    """A decompressor program, fed by a thread."""

    def __init__(self, source: Source, argv: tuple[str, ...]) -> None:
        import subprocess
        import threading

        try:
            self._child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        except OSError:
            name = argv[0]
            hint = f"apt install {name}, or pip install backports.zstd"
            raise ImageError(f"compressed with {name}, and neither this Python nor the machine has it", hint) from None
        self._failure: BaseException | None = None
        self._feeder = threading.Thread(target=self._feed, args=(source,), daemon=True)
        self._feeder.start()

    def _feed(self, source: Source) -> None:
        assert self._child.stdin is not None
        try:
            while data := source.read(CHUNK):
                self._child.stdin.write(data)
        except BrokenPipeError:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            try:
                self._child.stdin.close()
            except BrokenPipeError:
                pass

    def read(self, size: int) -> bytes:
        assert self._child.stdout is not None
        data = self._child.stdout.read(size)
        if not data:
            self._feeder.join()
            if self._failure is not None:
                raise self._failure
            if self._child.wait():
                raise EOFError("the zstd stream is damaged or cut short")
        return data

    def close(self) -> None:
        assert self._child.stdout is not None
        self._child.kill()
        self._child.wait()
        self._feeder.join()
        self._child.stdout.close()
