"""run_many: jobs by the thousand from one process. Threads launch and wait, one job each; a budget admits; results come as they end.

The jobs are taken from their iterable as they are admitted and results are handed on as they come, so a million jobs of a
generator need the memory of those that run. A thread costs little here: while a job is launched or runs, its thread holds no GIL.
But threads that launch get in each other's way, in the kernel: so there are two for each CPU, and more only where jobs take longer
than their launch, which is when more at once get more done.
"""

from __future__ import annotations

import os
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from pybox.api import shared
from pybox.errors import PyboxError
from pybox.jobs.budget import Budget, Need, need_of, of_the_box
from pybox.jobs.job import Job
from pybox.jobs.ledger import Ledger
from pybox.result import Result, never_ran
from pybox.units import parse_bytes, parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Literal

    from pybox.native import Child


_PATIENCE = 0.01  # seconds without a result, or that a job takes, from which on more threads are worth having
_WINDOW = 10_000  # with order, how far the others may run ahead of the slowest: their results wait in memory


class Crew:
    """The threads of one run_many call. What they run can be killed at any time, and is, when the call is given up."""

    def __init__(self, size: int) -> None:
        self.results: SimpleQueue[tuple[int, Job, Need, Result | BaseException]] = SimpleQueue()
        self._jobs: SimpleQueue[tuple[int, Job, Need, int] | None] = SimpleQueue()
        self.size = size
        self._launchers = parallelism("auto")
        self._pace = 0.0  # seconds that jobs take, the newest counting most
        self._threads: list[Thread] = []
        self._running: dict[int, int] = {}  # job's index -> pidfd of its container
        self._lock = Lock()
        self.over = False

    def give(self, index: int, job: Job, need: Need, retries: int) -> None:
        """Have a job run."""
        self._jobs.put((index, job, need, retries))
        if len(self._threads) < self._launchers:
            self._grow(1)

    def take(self) -> tuple[int, Job, Need, Result | BaseException]:
        """Return the next outcome."""
        while not self._jobs.empty() and len(self._threads) < self.size:
            try:
                found = self.results.get(timeout=_PATIENCE)
            except Empty:
                self._grow(len(self._threads))
                continue
            if isinstance(found[3], Result):
                self._pace += (found[3].wall - self._pace) / 8
            if self._pace > _PATIENCE:
                self._grow(1)
            return found
        return self.results.get()

    def _grow(self, more: int) -> None:
        for number in range(len(self._threads), min(self.size, len(self._threads) + more)):
            self._threads.append(Thread(target=self._work, name=f"pybox-job-{number}", daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while (order := self._jobs.get()) is not None:
            index, job, need, retries = order
            outcome: Result | BaseException
            try:
                outcome = _never_begun(index, job) if self.over else self._run(index, job, retries)
            except BaseException as error:  # nothing may be lost on the way to who waits for it
                outcome = error
            self.results.put((index, job, need, outcome))

    def _run(self, index: int, job: Job, retries: int) -> Result:
        for attempt in range(1, retries + 2):
            try:
                result = self.attempt(index, job)
            except PyboxError as error:
                result = never_ran(job.image, job.args, error)
            finally:
                with self._lock:
                    ours = self._running.pop(index, -1)
                if ours >= 0:
                    os.close(ours)
            result = result.replace(index=index, name=job.name, attempts=attempt)
            if self.over and not result.ok:
                return result.replace(reason="cancelled")
            if result.ok:
                break
        return result

    def attempt(self, index: int, job: Job) -> Result:
        """Run a job once. Raises the PyboxError for which it can't be started."""
        return shared().run(job.spec(), job.run_options(), self.watcher(index))

    def watcher(self, index: int) -> Callable[[Child, str], None]:
        """Return what is to be told of a job's container when it runs, so that it can be killed."""
        return lambda child, identity: self._started(index, child)

    def _started(self, index: int, child: Child) -> None:
        with self._lock:
            # a copy: the original is closed when it has ended, and its number may be another container's by then
            self._running[index] = os.dup(child.pidfd)
            if self.over:
                self._kill(child.pidfd)

    def _kill(self, pidfd: int) -> None:
        from signal import SIGKILL, pidfd_send_signal

        try:
            pidfd_send_signal(pidfd, SIGKILL)
        except ProcessLookupError:
            pass

    def cancel(self) -> None:
        """Kill what still runs, and what is given from now on as soon as it runs."""
        with self._lock:
            self.over = True
            for pidfd in self._running.values():
                self._kill(pidfd)

    def dismiss(self) -> None:
        """Kill what still runs, and wait until nothing is left of it."""
        self.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


def _never_begun(index: int, job: Job) -> Result:
    why = "given up before it began"
    return Result("", job.image, job.args, "cancelled", 125, error=why, index=index, name=job.name, attempts=0)


def parallelism(parallel: int | Literal["auto"]) -> int:
    """Return how many jobs run at once: with "auto" two for each CPU, for a launch also waits; more get in each other's way."""
    if parallel == "auto":
        return 2 * len(os.sched_getaffinity(0))
    return parse_int("parallel", parallel, 1, 10_000) or 1


def run_many(
    jobs: Iterable[Job],
    *,
    parallel: int | Literal["auto"] = "auto",
    order: bool = False,
    retries: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    memory: int | str | None = None,
    cpus: float | None = None,
) -> Iterator[Result]:
    """Run jobs, and yield the Result of each as it ends. Leaving the loop early kills what still runs.

    Args:
        jobs: any iterable; it is read as jobs are admitted.
        parallel: most jobs at once.
        order: yield in the order of the jobs, not of their ends.
        retries: how often a job that does not end with 0 is run again; a Job's own number goes before it.
        out: a directory; each result is written there before it is yielded (results.jsonl, and INDEX.stdout, INDEX.stderr).
        resume: skip what ``out`` says has ended with 0; its results are yielded from there.
        memory, cpus: what the jobs that run at once may promise together (their ``memory=`` and ``cpus=``); by default what
            this machine, or the control group we are in, has to give. A job that can never fit fails at once.

    Yields:
        Results with ``index`` (0, 1, ... in the order of the jobs), ``name`` and ``attempts``. A job that could not be started
        has ``reason`` launch-failed and ``error``: one bad job does not stop the others.

    Raises:
        SpecError: nonsense in the arguments. StateError: ``out`` belongs to another batch. What ``jobs`` raises passes through.
    """
    size = parallelism(parallel)
    box = of_the_box()
    budget = Budget(box.memory if memory is None else parse_bytes("memory", memory) or 0, box.cpus if cpus is None else cpus)
    ledger = None if out is None else Ledger(os.fspath(out), resume)
    results = run_numbered(enumerate(jobs), Crew(size), budget, retries, ledger, _WINDOW if order else None)
    return _ordered(results) if order else results


def run_numbered(
    jobs: Iterable[tuple[int, Job] | None],
    crew: Crew,
    budget: Budget,
    retries: int,
    ledger: Ledger | None,
    window: int | None = None,
) -> Iterator[Result]:
    """Run jobs that have numbers already, as run_many does; None says: the next one depends on a result that is not there yet."""
    held = Need()
    busy: set[int] = set()  # by index
    try:
        for order in jobs:
            if order is None:
                result, freed = _next(crew, ledger, busy)
                held = held.minus(freed)
                yield result
                continue
            index, job = order
            done = None if ledger is None else ledger.done(index, job)
            if done is not None:
                yield done
                continue
            need = need_of(job.spec())
            never = budget.never(need)
            if never:
                failed = Result("", job.image, job.args, "launch-failed", 125, error=never, index=index, name=job.name)
                yield _noted(ledger, job, failed)
                continue
            while busy and (
                len(busy) >= crew.size
                or not budget.fits(held, need)
                or (window is not None and index - min(busy) >= window)
                or not crew.results.empty()
            ):
                result, freed = _next(crew, ledger, busy)
                held = held.minus(freed)
                yield result
            if crew.over:
                break
            crew.give(index, job, need, retries if job.retries is None else job.retries)
            held = held.plus(need)
            busy.add(index)
        while busy:
            yield _next(crew, ledger, busy)[0]
    finally:
        crew.dismiss()
        if ledger is not None:
            ledger.close()


def _next(crew: Crew, ledger: Ledger | None, busy: set[int]) -> tuple[Result, Need]:
    index, job, need, outcome = crew.take()
    busy.discard(index)
    if isinstance(outcome, BaseException):
        raise outcome
    return _noted(ledger, job, outcome), need


def _noted(ledger: Ledger | None, job: Job, result: Result) -> Result:
    if ledger is not None:
        ledger.note(job, result)
    return result


def _ordered(results: Iterator[Result]) -> Iterator[Result]:
    waiting: dict[int, Result] = {}
    turn = 0
    for result in results:
        assert result.index is not None
        waiting[result.index] = result
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1
