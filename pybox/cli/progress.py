"""How far a pull or push is: bars on a terminal, a line per layer anywhere else. rich is imported here only, and late."""

from __future__ import annotations

import os
from threading import Lock

from pybox.cli.table import size as readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol, Self

    from rich.progress import Progress, TaskID

    from pybox.registry.pull import Watch

    class Shown(Watch, Protocol):
        """Something that shows."""

        def end(self, text: str) -> None:
            """All is done; this is the sum of it."""

        def __enter__(self) -> Self: ...

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...


def _say(text: str) -> None:
    os.write(2, f"pybox: {text}\n".encode("utf-8", "backslashreplace"))


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def begin(self, digest: str, size: int) -> None:
        """A blob begins to move."""

    def moved(self, digest: str, count: int) -> None:
        """It moves."""

    def done(self, digest: str, how: str) -> None:
        """It is there."""

    def end(self, text: str) -> None:
        """All is done."""


class Lines(Silence):
    """A line for each layer that is done: for logs."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._lock = Lock()

    def begin(self, digest: str, size: int) -> None:
        self._sizes[digest] = size

    def done(self, digest: str, how: str) -> None:
        with self._lock:
            _say(f"layer {digest[7:19]}: {how or readable(self._sizes.get(digest))}")

    def end(self, text: str) -> None:
        _say(text)


class Bars(Silence):
    """A bar for each layer that moves. Nothing is drawn, and rich not loaded, while nothing moves."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, digest: str, size: int) -> None:
        with self._lock:
            if self._bars is None:
                self._bars = _bars()
                self._bars.start()
            self._tasks[digest] = self._bars.add_task(digest[7:19], total=size)

    def moved(self, digest: str, count: int) -> None:
        with self._lock:
            if self._bars is not None:
                self._bars.advance(self._tasks[digest], count)

    def done(self, digest: str, how: str) -> None:
        with self._lock:
            if self._bars is not None and digest in self._tasks:
                task = self._tasks[digest]
                total = next(each.total for each in self._bars.tasks if each.id == task)
                self._bars.update(task, completed=total)

    def end(self, text: str) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        _say(text)


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=8)
