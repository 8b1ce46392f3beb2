"""`pybox logs`: what a container wrote, stdout to stdout and stderr to stderr, as it was."""

from __future__ import annotations

import os
from select import POLLERR, POLLHUP, poll

from pybox import kept, listing
from pybox.cli.options import Option, Parsed, parse_anywhere
from pybox.dirs import Dirs
from pybox.errors import SpecError, StateError
from pybox.logs import Reader
from pybox.record import Record
from pybox.times import parse_time, stamp
from pybox.units import parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pybox.logs import Piece

LOGS = (
    Option(("-f", "--follow"), "", "go on until the container has ended"),
    Option(("-n", "--tail"), "", "only the last lines, or all (the default)", "NUMBER"),
    Option(("--since",), "", "only what came then or later: 10m (ago), 2026-01-31T15:04:05Z, seconds since 1970", "TIME"),
    Option(("--until",), "", "only what came before", "TIME"),
    Option(("-t", "--timestamps"), "", "the time before each line"),
)
_PAUSE_MS = 50  # between two looks at a log that is followed
_BUFFER = 1 << 18


class Wanted(Record):
    """Which lines are asked for, and how."""

    tail: int | None  # None all
    since: bytes  # as the log has times; b"" from the beginning
    until: bytes
    stamps: bool


def logs(where: Dirs, words: list[str]) -> int:
    """Show the log of a container."""
    parsed = parse_anywhere(LOGS, words)
    if len(parsed.rest) != 1:
        raise SpecError("logs", " ".join(parsed.rest), "needs one container", "`pybox ps -a` lists them")
    wanted = _wanted(parsed)
    entry = listing.find(where, parsed.rest[0])
    reader = Reader(kept.folder(where, entry.identity))
    try:
        # of one that has only just started the log may not be there yet
        if not reader and entry.status != "created" and not entry.journal.get("monitor"):
            raise StateError(
                f"container {entry.identity} has no log: it wrote to the terminal or pipe that it was run from",
                "`pybox run -d` keeps what a container writes",
            )
        if wanted.tail is not None:
            reader.from_tail(wanted.tail, wanted.until)
        printer = _Printer(wanted)
        lives = parsed.has("follow") and listing.owner_lives(entry.path)
        # whoever has ended before we read can write nothing after it
        while printer.show(reader.read(ended=not parsed.has("follow") or not lives)) and lives:
            _pause()
            lives = listing.owner_lives(entry.path)
    finally:
        reader.close()
    return 0


def _wanted(parsed: Parsed) -> Wanted:
    from time import time_ns

    now = time_ns()
    since, until = (
        b"" if text is None else stamp(parse_time(name, text, now)).encode()
        for name, text in (("since", parsed.one("since")), ("until", parsed.one("until")))
    )
    tail = parsed.one("tail")
    lines = None if tail in (None, "all", "-1") else parse_int("tail", tail, 0, 1 << 62)
    return Wanted(lines, since, until, parsed.has("timestamps"))


class _Printer:
    """Writes pieces out, joined to lines."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._shown: dict[int, bool] = {}  # stream: whether the line that has begun there is shown

    def show(self, pieces: Iterable[Piece]) -> bool:
        """Write what is asked for; returns whether more can come."""
        from time import time_ns

        wanted, shown = self._wanted, self._shown
        buffer: list[bytes] = []
        target, size = 1, 0
        over = bool(wanted.until) and stamp(time_ns()).encode() > wanted.until
        for when, stream, full, text in pieces:
            first = stream not in shown
            if first:
                if wanted.until and when > wanted.until:
                    over = True
                    break
                shown[stream] = not when or when >= wanted.since
            if shown[stream]:
                if stream != target or size > _BUFFER:
                    _write(target, b"".join(buffer))
                    buffer, target, size = [], stream, 0
                if first and wanted.stamps and when:
                    buffer.append(when + b" ")
                buffer.append(text + b"\n" if full else text)
                size += len(text)
            if full:
                del shown[stream]
        _write(target, b"".join(buffer))
        return not over


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # it was given to us so
            watch = poll()
            watch.register(fd, 4)  # POLLOUT
            watch.poll()


def _pause() -> None:
    """Wait a little, and notice when the reader of our output is gone: a quiet container would never let us find out."""
    watch = poll()
    watch.register(1, 0)
    if any(event & (POLLERR | POLLHUP) for _, event in watch.poll(_PAUSE_MS)):
        raise BrokenPipeError
