"""Progress: how far a batch is, while it runs. On a terminal one line that moves (rich, imported only here and only then); elsewhere
a plain line now and then, and one for each job that does not end well."""

from __future__ import annotations

import os
from collections import deque
from time import monotonic

from pybox.batch.going import Counts, how
from pybox.shown import size, visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from rich.live import Live
    from rich.text import Text

    from pybox.result import Result

_EVERY = 10.0  # seconds between plain lines
_WINDOW = 30.0  # seconds over which the rate is measured


class Rate:
    """Jobs per second, over the last half minute."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, done: int) -> None:
        """Note how many jobs were done at a time."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > _WINDOW:
            self._marks.popleft()

    @property
    def per_second(self) -> float:
        """The rate; 0 when nothing is known yet."""
        (then, few), (now, many) = self._marks[0], self._marks[-1]
        return (many - few) / (now - then) if now > then else 0.0


def duration(seconds: float) -> str:
    """Return a time for people: ``0.2s``, ``12s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    whole = int(seconds + 0.5)
    if seconds < 10:
        return f"{seconds:.2g}s"
    if whole < 60:
        return f"{whole}s"
    for small, large, unit, part in ((60, 3600, "m", "s"), (3600, 86400, "h", "m"), (86400, 1 << 60, "d", "h")):
        if whole < large:
            return f"{whole // small}{unit}{whole % small * (24 if unit == 'd' else 60) // small:02}{part}"
    return "-"


def words(counts: Counts, rate: Rate) -> list[str]:
    """Return what there is to say, the most important first."""
    found = [f"{counts.done}/{counts.total} done", f"{counts.running} running"]
    if counts.failed:
        found.append(f"{counts.failed} failed")
    if counts.skipped:
        found.append(f"{counts.skipped} skipped")
    if rate.per_second:
        found.append(f"{rate.per_second:.3g}/s")
        found.append(f"{duration((counts.total - counts.done) / rate.per_second)} to go")
    if counts.held.memory:
        found.append(f"{size(counts.held.memory)} of {size(counts.memory)} promised")
    return found


class Plain:
    """Lines for a log."""

    def __init__(self, stream: TextIO, counts: Counts) -> None:
        self._stream, self._counts, self._rate = stream, counts, Rate()
        self._last = monotonic()
        self._rate.mark(self._last, counts.done)

    def ended(self, result: Result) -> None:
        """Tell of a job that has ended."""
        if not result.ok and result.reason not in ("skipped", "cancelled"):
            self._stream.write(trouble(result) + "\n")
        now = monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            self._rate.mark(now, self._counts.done)
            self._stream.write(", ".join(words(self._counts, self._rate)) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Leave the stream as it is."""
        self._stream.flush()


class Quiet(Plain):
    """Nothing."""

    def ended(self, result: Result) -> None:
        """Say nothing."""


class Moving:
    """A line that moves, at the foot of a terminal."""

    def __init__(self, stream: TextIO, counts: Counts) -> None:
        from rich.console import Console
        from rich.live import Live

        self._counts, self._rate = counts, Rate()
        self._console = Console(file=stream, highlight=False, markup=False)
        self._live: Live = Live(get_renderable=self._line, console=self._console, refresh_per_second=5, transient=True)
        self._live.start()

    def _line(self) -> Text:
        from rich.text import Text

        counts = self._counts
        self._rate.mark(monotonic(), counts.done)
        room = max(10, min(40, self._console.width - 60))
        well, bad = (room * part // max(1, counts.total) for part in (counts.well, counts.failed + counts.skipped))
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("━" * well, "green").append("━" * bad, "red").append("━" * (room - well - bad), "bright_black")
        said = words(counts, self._rate)
        return line.append(f" {said[0]}", "bold").append("".join(f" · {word}" for word in said[1:]))

    def ended(self, result: Result) -> None:
        """Tell of a job that has ended: above the line, when it did not end well."""
        if not result.ok and result.reason not in ("skipped", "cancelled"):
            self._console.print(trouble(result), style="red", soft_wrap=True)

    def close(self) -> None:
        """Take the line away, and give the cursor back."""
        self._live.stop()


def trouble(result: Result) -> str:
    """Return the line for a job that did not end well."""
    return f"{visible(result.name or f'job {result.index}')}: {visible(how(result))}"


Progress = Plain | Moving


def open_progress(stream: TextIO, counts: Counts, quiet: bool) -> Progress:
    """Return the display that fits."""
    if quiet:
        return Quiet(stream, counts)
    moves = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Moving(stream, counts) if moves else Plain(stream, counts)
