"""Reading the log of a container: CRI lines that pybox-monitor writes (csrc/monitor_log.c), in log, log.1, log.2, newest first.

    2026-11-24T05:47:15.123456789Z stdout F a line

The writer may rotate at any moment. A reader holds the files it reads open and knows them by inode, which nobody else can get
meanwhile: so no rename makes it miss a line or read one twice. A position is always at the beginning of a record: what is only
half there is read again when it is whole.
"""

from __future__ import annotations

import os

from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    # (RFC 3339, or nothing for what is no record; stream; whether it ends its line; text without the line's end). There may be
    # millions of them: a Record of each would take twenty times as long.
    Piece = tuple[bytes, int, bool, bytes]

_BLOCK = 1 << 18
_STAMP = 30  # bytes of 2026-11-24T05:47:15.123456789Z
_HEAD = _STAMP + len(" stdout F ")
_PIECES_WITHIN = 1 << 20  # bytes before the first line of a tail in which the rest of a line is looked for
STDOUT, STDERR = 1, 2
_STREAMS = {b"out": STDOUT, b"err": STDERR}


def parse(line: bytes) -> Piece:
    """Return what a line of the file says. What is no record (a disk lost its beginning) is shown as it is, without a time."""
    if line[_STAMP - 1 : _STAMP + 4] == b"Z std" and line[_HEAD - 3 : _HEAD] in (b" F ", b" P "):
        stream = _STREAMS.get(line[_STAMP + 4 : _STAMP + 7])
        if stream is not None:
            return line[:_STAMP], stream, line[_HEAD - 2] == 70, line[_HEAD:]  # F
    return b"", STDOUT, True, line


class Files:
    """The files of a log, held open, oldest first."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.fds: list[int] = _open_all(folder)

    def __bool__(self) -> bool:
        return bool(self.fds)

    def close(self) -> None:
        """Close them."""
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def rotated(self) -> bool:
        """Return whether the newest file is not ours any more: nobody writes to those that we have."""
        try:
            now = os.stat(f"{self._folder}/log").st_ino
        except FileNotFoundError:
            return False  # between two names, or removed
        return not self.fds or now != os.fstat(self.fds[-1]).st_ino

    def move_on(self) -> None:
        """Replace our files by those that came after them."""
        fresh = _open_all(self._folder)
        known = {os.fstat(fd).st_ino for fd in self.fds}
        last = max((index for index, fd in enumerate(fresh) if os.fstat(fd).st_ino in known), default=-1)
        for fd in fresh[: last + 1]:
            os.close(fd)
        self.close()
        self.fds = fresh[last + 1 :]


def _open_all(folder: str) -> list[int]:
    """Open all files, oldest first, as they were in one moment between two rotations."""
    from time import sleep

    for attempt in range(100):
        try:
            names = [name for name in os.listdir(folder) if name == "log" or (name[:4] == "log." and name[4:].isdigit())]
        except FileNotFoundError:
            return []
        names.sort(key=lambda name: -int(name[4:] or "0"))
        fds: list[int] = []
        try:
            for name in names:
                fds.append(os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
            inodes = [os.fstat(fd).st_ino for fd in fds]
            # the writer renames from the oldest on, so that one still has its name when nothing was renamed meanwhile
            still = all(os.stat(f"{folder}/{name}").st_ino == inode for name, inode in zip(names, inodes, strict=True))
            if still and len(set(inodes)) == len(names) and (names[-1:] == ["log"] or attempt > (20 if names else 2)):
                return fds
        except FileNotFoundError:
            pass
        for fd in fds:
            os.close(fd)
        sleep(0.001)
    return []


class Start(Record):
    """Where reading begins: the (file, offset) of the first record that counts, for each stream."""

    stdout: tuple[int, int] = (0, 0)
    stderr: tuple[int, int] = (0, 0)


def tail(fds: list[int], lines: int, until: bytes = b"") -> Start:
    """Return where the last so many lines begin. Reads from the end, no more than is needed.

    A line may be in pieces, and pieces of the other stream between them; so each stream has its own beginning.
    """
    if not fds:
        return Start()
    end = (len(fds) - 1, _end_of_records(fds[-1]))
    starts = {STDOUT: end, STDERR: end}
    inside: dict[int, bool] = {}  # stream: whether the records before are pieces of a line that counts
    taken = beyond = 0
    for place, head, size in _backwards(fds):
        when, stream, full, _ = parse(head)
        if until and when > until:
            continue
        if full or stream not in inside:  # the end of a line, or of the log
            inside[stream] = taken < lines
            taken += inside[stream]
        if inside[stream]:
            starts[stream] = place
        if taken == lines:
            beyond += size
            if not any(inside.values()) or beyond > _PIECES_WITHIN:
                break
    return Start(starts[STDOUT], starts[STDERR])


def _end_of_records(fd: int) -> int:
    """Return where the record begins that is being written at the end of a file."""
    size = os.fstat(fd).st_size
    begin = max(0, size - _BLOCK)
    return begin + os.pread(fd, size - begin, begin).rfind(b"\n") + 1


def _backwards(fds: list[int]) -> Iterator[tuple[tuple[int, int], bytes, int]]:
    """Yield ((file, offset), beginning, size) of each whole record, the last one first."""
    for number in range(len(fds) - 1, -1, -1):
        end = os.fstat(fds[number]).st_size
        rest, first = b"", True
        while end > 0:
            begin = max(0, end - _BLOCK)
            block = os.pread(fds[number], end - begin, begin) + rest
            if first:  # what follows the last line end is half a record
                block = block[: block.rfind(b"\n") + 1]
                first = not block
            at = len(block) - 1  # of a line's end
            while at >= 0:
                before = block.rfind(b"\n", 0, at)
                if before < 0 and begin > 0:
                    break
                yield (number, begin + before + 1), block[before + 1 : min(before + 1 + _HEAD, at)], at - before
                at = before
            rest = block[: at + 1]
            end = begin


class Reader:
    """Reads records forward, from a start on, across rotations. ``read`` may be called again and again."""

    def __init__(self, folder: str) -> None:
        self._files = Files(folder)
        self._number, self._offset = 0, 0  # the next record
        self._start = Start()

    def __bool__(self) -> bool:
        return bool(self._files)

    def from_tail(self, lines: int, until: bytes = b"") -> None:
        """Begin with the last so many lines."""
        self._start = tail(self._files.fds, lines, until)
        self._number, self._offset = min(self._start.stdout, self._start.stderr)

    def read(self, ended: bool) -> Iterator[Piece]:
        """Yield what is there. ``ended``: nobody writes any more, so a last record without its end is all of it."""
        while True:
            for number in range(self._number, len(self._files.fds)):
                yield from self._file(number, ended or number + 1 < len(self._files.fds))
            if not self._files.rotated():
                return
            if self._files:  # complete now: read what came between our last look and the rotation
                yield from self._file(len(self._files.fds) - 1, True)
            self._files.move_on()
            self._number, self._offset, self._start = 0, 0, Start()

    def _file(self, number: int, complete: bool) -> Iterator[Piece]:
        fd = self._files.fds[number]
        if number != self._number:
            self._number, self._offset = number, 0
        want = _BLOCK
        while block := os.pread(fd, want, self._offset):
            end = block.rfind(b"\n") + 1
            if not end:
                if len(block) == want:
                    want *= 2  # no record of ours is so long, but whatever lies there is shown
                    continue
                if not complete:
                    return
                end = len(block)
            base = self._offset
            self._offset += end
            want = _BLOCK
            lines = block[:end].split(b"\n")
            cut = lines.pop()  # what lies behind the last line's end: nothing, unless this is all of it
            for line in lines:
                piece = parse(line)
                if (number, base) >= (self._start.stdout if piece[1] == STDOUT else self._start.stderr):
                    yield piece
                base += len(line) + 1
            if cut:
                when, stream, _, text = parse(cut)
                yield when, stream, False, text

    def close(self) -> None:
        """Close the files."""
        self._files.close()
