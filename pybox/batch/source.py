"""Source: a file of jobs that is read more than once, so a stream is kept in a file without a name first. One line at a time."""

from __future__ import annotations

import os
import stat
import tempfile

from pybox.batch.places import BadLine
from pybox.errors import SpecError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = ("toml", "jsonl", "csv")
_ENDINGS = {".toml": "toml", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_LONGEST = 16 << 20  # bytes of a line: more is no list of jobs
_CHUNK = 1 << 20


class Source:
    """An open file of jobs. What is changed in it while it is used is noticed."""

    def __init__(self, path: str, format: str | None = None) -> None:
        """Open it, ``-`` is standard input. Raises SpecError when it can't be read or its format can't be told."""
        self.name = "<stdin>" if path == "-" else path
        try:
            self._fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SpecError("file", path, str(error.strerror)) from None
        kind = os.fstat(self._fd).st_mode
        if stat.S_ISDIR(kind):
            raise SpecError("file", path, "is a directory", "must be a .toml, .jsonl or .csv file, or -")
        if path == "-" or not stat.S_ISREG(kind):
            self._fd = self._spooled()
        self._stamp = self._now()
        self.format = format or _ENDINGS.get(os.path.splitext(path)[1].lower()) or self._sniffed(path)

    def _spooled(self) -> int:
        with tempfile.TemporaryFile() as spool, open(self._fd, "rb") as stream:
            while chunk := stream.read(_CHUNK):
                spool.write(chunk)
            spool.flush()
            return os.dup(spool.fileno())

    def _now(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns

    def _sniffed(self, path: str) -> str:
        """Return the format by the look of the beginning."""
        if path != "-" and os.path.splitext(path)[1]:
            raise SpecError("file", path, "is not .toml, .jsonl or .csv", "--format says what it is")
        for line in os.pread(self._fd, 1 << 16, 0).decode(errors="replace").splitlines():
            text = line.strip()
            if text and not text.startswith("#"):
                return "jsonl" if text[0] == "{" else "toml" if text[0] == "[" or "=" in text else "csv"
        return "jsonl"

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (number, line), from the beginning; a line has its newline. Raises BadLine for what is no text, StateError."""
        with open(f"/proc/self/fd/{self._fd}", "rb") as file:  # an open file of its own, with its own place in it
            number = 0
            while line := file.readline(_LONGEST + 1):
                number += 1
                if len(line) > _LONGEST:
                    raise BadLine(self.name, number, _LONGEST, f"a line of more than {_LONGEST} bytes")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, line.decode()
                except UnicodeDecodeError as error:
                    raise BadLine(self.name, number, error.start + 1, "not UTF-8 text") from None
        if self._now() != self._stamp:
            raise StateError(f"{self.name} was changed while it was read", "start again")

    def text(self) -> str:
        """Return all of it."""
        return "".join(line for _, line in self.lines())
