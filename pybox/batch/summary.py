"""The summary of a batch: its results, added up in one pass, in memory that does not grow with them."""

from __future__ import annotations

from heapq import heappush, heappushpop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybox.batch.directory import Results
    from pybox.fastjson import Json

STATES = ("ok", "failed", "timeout", "oom", "cancelled", "skipped")
_SLOWEST = 5


def state_of(row: dict[str, Json]) -> str:
    """Return how a job ended, in one of STATES."""
    reason = row.get("reason")
    if reason == "exit" and row.get("exit_code") == 0:
        return "ok"
    return str(reason) if reason in STATES else "failed"


def reason_of(row: dict[str, Json]) -> str:
    """Return why a job did not end well, in words."""
    if row.get("error"):
        return str(row["error"])
    return {
        "exit": f"exit status {row.get('exit_code')}",
        "signal": f"signal {row.get('signal')}",
        "timeout": "time-out",
        "oom": "out of memory",
    }.get(str(row.get("reason")), str(row.get("reason")))


def number(row: dict[str, Json], field: str) -> float:
    """Return a number of a row, 0 where there is none."""
    value = row.get(field)
    return float(value) if isinstance(value, (int, float)) else 0.0


def called(row: dict[str, Json]) -> str:
    """Return what to call a job."""
    return str(row.get("name") or f"job {row.get('index')}")


class Failure:
    """A job that did not end well, for a table."""

    def __init__(self, name: str, index: int, state: str, reason: str, words: str, attempts: int) -> None:
        self.name, self.index, self.state, self.reason, self.words, self.attempts = name, index, state, reason, words, attempts


class Summary:
    """The numbers of a batch."""

    def __init__(self, results: Results, total: int, most: int) -> None:
        """Add up. ``most`` failures are kept for the table, those that were skipped after all others."""
        self.total = total
        self.states = dict.fromkeys(STATES, 0)
        self.cpu = self.wall = 0.0  # seconds, of all jobs
        self.peak, self.peak_name = 0, ""  # bytes
        self.retried = 0
        self.first, self.last = float("inf"), 0.0  # seconds since the epoch
        self._slowest: list[tuple[float, str]] = []
        self.failures: list[Failure] = []
        self.skipped: list[Failure] = []
        for row in results.rows():
            self._add(row, results, most)
        self.failures = (self.failures + self.skipped)[:most]

    def _add(self, row: dict[str, Json], results: Results, most: int) -> None:
        state, wall, ended = state_of(row), number(row, "wall"), number(row, "ended")
        self.states[state] += 1
        self.cpu += number(row, "cpu_user") + number(row, "cpu_system")
        self.wall += wall
        self.retried += number(row, "attempts") > 1
        if number(row, "memory_peak") > self.peak:
            self.peak, self.peak_name = int(number(row, "memory_peak")), called(row)
        if ended:
            self.first, self.last = min(self.first, ended - wall), max(self.last, ended)
            (heappush if len(self._slowest) < _SLOWEST else heappushpop)(self._slowest, (wall, called(row)))
        kept = self.skipped if state == "skipped" else self.failures
        if state not in ("ok", "cancelled") and len(kept) < most:
            words = results.last_words(row) if kept is self.failures else ""
            kept.append(
                Failure(called(row), int(number(row, "index")), state, reason_of(row), words, int(number(row, "attempts")))
            )

    @property
    def done(self) -> int:
        """How many jobs have a result."""
        return sum(self.states.values())

    @property
    def failed(self) -> int:
        """How many did not end well, by themselves."""
        return self.done - self.states["ok"] - self.states["cancelled"]

    @property
    def span(self) -> float:
        """Seconds from the first start to the last end."""
        return max(0.0, self.last - self.first)

    def slowest(self) -> list[tuple[float, str]]:
        """Return the slowest jobs, seconds and name."""
        return sorted(self._slowest, reverse=True)


def starts(rows: Iterable[dict[str, Json]]) -> Iterator[tuple[float, float, dict[str, Json]]]:
    """Yield (begin, end, row) of the jobs that ran, in seconds since the epoch."""
    for row in rows:
        ended = number(row, "ended")
        if ended:
            yield ended - number(row, "wall"), ended, row
