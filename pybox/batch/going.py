"""Going: a batch that runs. Jobs are given in the order of the file as what they need has ended well; run_numbered does the rest.

A job waits for names; a name counts how many of its jobs have not ended well yet. The first one that ends otherwise breaks the
name, and all that waits for it, or will, is skipped, with what waits for that.
"""

from __future__ import annotations

import os
from collections import deque

from pybox.api import shared
from pybox.batch.directory import Results
from pybox.batch.plan import Batch
from pybox.jobs.budget import Need
from pybox.jobs.job import Job
from pybox.jobs.many import Crew, run_numbered
from pybox.result import Result
from pybox.supervise import DEVNULL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Counts:
    """How far a batch is; a progress display reads it at any time."""

    def __init__(self, total: int, budget: int) -> None:
        self.total = total
        self.well = self.failed = self.skipped = self.running = 0
        self.before = 0  # of those that ended well: in an earlier run
        self.held = Need()  # promised by those that run
        self.memory = budget  # bytes that can be promised

    @property
    def done(self) -> int:
        """How many jobs are settled."""
        return self.well + self.failed + self.skipped


class _Crew(Crew):
    """Runs the jobs of a batch: their output goes where the results are, and nothing comes from our stdin."""

    def __init__(self, size: int, results: Results, counts: Counts) -> None:
        super().__init__(size)
        self._results, self._counts = results, counts
        self._holding: dict[int, Need] = {}

    def give(self, index: int, job: Job, need: Need, retries: int) -> None:
        """Have a job run."""
        self._holding[index] = need
        self._counts.running += 1
        self._counts.held = self._counts.held.plus(need)
        super().give(index, job, need, retries)

    def gone(self, index: int) -> None:
        """Count a job out; one that was never given holds nothing."""
        if index in self._holding:
            self._counts.running -= 1
            self._counts.held = self._counts.held.minus(self._holding.pop(index))

    def attempt(self, index: int, job: Job) -> Result:
        """Run a job once."""
        options, fds = job.run_options(), self._results.open(index)
        if options.feed is None:
            options = options.replace(stdin=DEVNULL)
        if fds is None:
            return shared().run(job.spec(), options, self.watcher(index))
        try:
            options = options.replace(capture=False, stdout=fds[0], stderr=fds[1])
            return shared().run(job.spec(), options, self.watcher(index))
        finally:
            for fd in fds:
                os.close(fd)


class Going:
    """One run of a batch, until all is settled or it is stopped."""

    def __init__(self, batch: Batch, results: Results, size: int, retries: int) -> None:
        self.counts = Counts(batch.count, batch.budget.memory)
        self._batch, self._results, self._retries = batch, results, retries
        self._crew = _Crew(size, results, self.counts)
        self._stopped = False
        self._ready: deque[tuple[int, Job]] = deque()
        self._waiting: dict[int, tuple[Job, int]] = {}  # index -> job, how many names it still waits for
        self._waiters: dict[str, list[int]] = {}
        self._left: dict[str, int] = {name: len(members) for name, members in batch.members.items()}
        self._broken: dict[str, str] = {}  # name -> why it will never be
        self._names: dict[int, list[str]] = {}  # index -> the names, waited for by somebody, that it is a member of
        self._skipped: deque[Result] = deque()
        for name, members in batch.members.items():
            for index in members:
                self._names.setdefault(index, []).append(name)
        for index in range(len(results.known)):
            if results.well(index):
                self.counts.well += 1
                self._settle(index, "")
        self.counts.before = self.counts.well

    def stop(self) -> None:
        """Begin no more jobs, and kill those that run. `results` then ends."""
        self._stopped = True
        self._crew.cancel()

    def results(self) -> Iterator[Result]:
        """Yield each job's Result when it is written down; those that are skipped, too."""
        for result in run_numbered(self._orders(), self._crew, self._batch.budget, self._retries, self._results):
            self._take(result)
            yield result
            while self._skipped:
                yield self._skipped.popleft()
        while self._skipped:
            yield self._skipped.popleft()

    def _take(self, result: Result) -> None:
        assert result.index is not None
        self._crew.gone(result.index)
        self.counts.well += result.ok
        self.counts.failed += not result.ok
        if result.reason == "cancelled":
            return  # so who waits for it is not skipped, but not run yet
        self._settle(result.index, "" if result.ok else f"{result.name}, which it needs, did not end well: {how(result)}")

    def _orders(self) -> Iterator[tuple[int, Job] | None]:
        for index, entry in enumerate(self._batch.entries()):
            while self._ready and not self._stopped:
                yield self._ready.popleft()
            if self._stopped:
                return
            if self._results.well(index):
                continue
            broken = [name for name in entry.needs if name in self._broken]
            names = [name for name in entry.needs if self._left[name]]
            if broken:
                self._settle(index, self._skipping(index, entry.job, self._broken[broken[0]]))
            elif names:
                self._waiting[index] = entry.job, len(names)
                for name in names:
                    self._waiters.setdefault(name, []).append(index)
            else:
                yield index, entry.job
        while (self._waiting or self._ready) and not self._stopped:
            yield self._ready.popleft() if self._ready else None

    def _settle(self, index: int, trouble: str) -> None:
        """Tell those who wait for a job that it has ended: well, if there was no trouble. And those who wait for who is skipped now."""
        news = deque([(index, trouble)])
        while news:
            index, trouble = news.popleft()
            for name in self._names.get(index, ()):
                if trouble:
                    self._broken.setdefault(name, trouble)
                    for waiter in self._waiters.pop(name, ()):
                        if waiter in self._waiting:
                            news.append((waiter, self._skipping(waiter, self._waiting.pop(waiter)[0], trouble)))
                else:
                    self._left[name] -= 1
                    for waiter in self._waiters.pop(name, ()) if not self._left[name] else ():
                        self._one_less(waiter)

    def _one_less(self, waiter: int) -> None:
        if waiter in self._waiting:
            job, names = self._waiting.pop(waiter)
            if names > 1:
                self._waiting[waiter] = job, names - 1
            else:
                self._ready.append((waiter, job))

    def _skipping(self, index: int, job: Job, reason: str) -> str:
        """Write down that a job is skipped, and return what that means for who waits for it."""
        result = Result("", job.image, job.args, "skipped", 125, error=reason, index=index, name=job.name, attempts=0)
        self._results.note(job, result)
        self.counts.skipped += 1
        self._skipped.append(result)
        return reason


def how(result: Result) -> str:
    """Return in words how a job ended."""
    if result.error:
        return result.error
    return {
        "exit": f"exit status {result.exit_code}",
        "signal": f"signal {result.signal}",
        "timeout": "time-out",
        "oom": "out of memory",
        "cancelled": "cancelled",
    }.get(result.reason, result.reason)
