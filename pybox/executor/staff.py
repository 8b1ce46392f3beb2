"""Who does what: which worker gets a call, when another one is hired, and what is taken back from whom."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from select import EPOLLOUT
from time import monotonic

from pybox import api
from pybox.executor import wire
from pybox.executor.calls import Call, Task
from pybox.executor.commands import Commands
from pybox.executor.crew import Worker
from pybox.failures import ProgramNotFound
from pybox.record import Record
from pybox.runtime import Options
from pybox.spec import Spec

AHEAD = 16  # calls that a worker has been given, at most: it need not wait for us to hear of the last result


class Terms(Record):
    """What an Executor's workers are, and what they may."""

    spec: Spec
    options: Options
    program: bytes  # what each is sent first
    max_workers: int
    fresh: bool  # a container for each call
    json: bool  # results are JSON
    max_result: int  # bytes
    timeout: float | None  # seconds for each call


class Staff(Commands):
    """A loop that has workers. What they say and how they end is told to `_heard`, `_broken` and `_ended` of its heir."""

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self._terms = terms
        self._pending: deque[Call] = deque()
        self._workers: list[Worker] = []
        self._functions: dict[bytes, int] = {}
        self._numbers = 0
        self._closing = self._hurry = False
        self._sick = False  # the last worker that was hired did not come to work
        self.first: Future[None] = Future()  # whether a worker can be had at all

    def _heard(self, worker: Worker, event: int) -> None:
        raise NotImplementedError

    def _broken(self, worker: Worker, error: wire.Broken) -> None:
        raise NotImplementedError

    def _ended(self, worker: Worker) -> None:
        raise NotImplementedError

    def _give_out(self) -> None:
        """Give what waits to workers, as far as there are hands."""
        while self._pending:
            call = self._pending[0]
            if not call.ended and self._written(call):
                worker = self._hand(call)
                if worker is None:
                    break
                if worker.calls or self._begin(worker, call):
                    self._give(worker, call)
            self._pending.popleft()

    def _written(self, call: Call) -> bool:
        try:
            self._numbers += 1
            call.write_down(self._numbers)
        except Exception as error:  # a future's business, as in ProcessPoolExecutor
            if call.begin():
                call.fail(error)
            return False
        return True

    def _busy(self) -> int:
        return sum(1 for worker in self._workers if worker.calls) + len(self._running)

    def _hand(self, call: Call) -> Worker | None:
        """Return who shall have a call: somebody idle, else who has the least to do."""
        best = None
        most = 1 if self._terms.fresh or not call.small else AHEAD
        for worker in self._workers:
            if not worker.ready or worker.leaving or worker.killed:
                continue
            if not worker.calls:
                if self._busy() < self._terms.max_workers:
                    return worker
            elif worker.has_room(most) and (best is None or len(worker.calls) < len(best.calls)):
                best = worker
        return best

    def _give(self, worker: Worker, call: Call) -> None:
        call.where = worker
        worker.calls.append(call)
        self._send(worker, call.messages(self._functions, worker.known))

    def _begin(self, worker: Worker, call: Call) -> bool:
        if not call.begin():
            return False
        timeout = self._terms.timeout
        worker.deadline = None if timeout is None else monotonic() + timeout
        return True

    def _put_back(self, worker: Worker, but: Task | None = None) -> None:
        """Take back what a worker has not begun. What was said to run is given to it again."""
        taken = worker.take_back()
        if not worker.calls:
            worker.deadline = None
            if taken and taken[0].begun and taken[0] is not but and not worker.killed:
                first = taken.pop(0)
                self._begin(worker, first)
                self._give(worker, first)
        self._pending.extendleft(call for call in reversed(taken) if call is not but)

    def _even_out(self) -> None:
        """Let nobody be idle while calls wait behind others."""
        if any(worker.ready and not worker.calls and not worker.leaving for worker in self._workers):
            loaded = max(self._workers, key=lambda worker: len(worker.calls))
            if len(loaded.calls) > 1 and self._busy() < self._terms.max_workers:
                self._put_back(loaded)
                self._give_out()

    def _send(self, worker: Worker, parts: list[bytes | memoryview]) -> None:
        try:
            worker.send(parts)
        except wire.Broken as error:
            self._broken(worker, error)
            return
        if worker.events & EPOLLOUT:
            self._poll.modify(worker.ours.fileno(), worker.events)

    def _staff(self) -> bool:
        """Hire where more could be done at once; one at a time, so that results don't wait for it. Returns whether it did."""
        most, busy = self._terms.max_workers, self._busy()
        if self._commands and busy < most:
            return self._launch(self._commands.popleft())
        there = [worker for worker in self._workers if not worker.leaving and not worker.killed]
        free = sum(1 for worker in there if not worker.calls)
        if self._hurry or (self._sick and there):
            return False
        if self._terms.fresh:
            spare = not self._closing and not self._sick
            return free < min(len(self._pending), max(0, most - busy)) + spare and self._hire()
        waiting = len(self._pending) + sum(len(worker.calls) - 1 for worker in there if worker.calls)
        return len(there) < most and free < waiting and self._hire()

    def _hire(self) -> bool:
        """Launch one more worker; returns whether it is worth to ask again at once."""
        terms = self._terms
        try:
            worker = Worker(api.shared(), terms.spec, terms.options, terms.max_result)
        except Exception as error:
            if isinstance(error, ProgramNotFound):
                error.hint = "an Executor needs Python in the image; python= says where, mounts= may bring it"
            self._refused(error)
            return bool(self._pending)
        self._workers.append(worker)
        self._add(worker.running.child.pidfd, lambda _: self._ended(worker))
        self._add(worker.ours.fileno(), lambda event: self._heard(worker, event))
        self._add_readers(worker)
        return True

    def _refused(self, error: BaseException) -> None:
        """No worker could be had. Where none is left, the oldest call that waits ends with the reason."""
        self._sick = True
        if not self.first.done():
            self.first.set_exception(error)
            self._closing = True
        elif all(worker.killed or worker.leaving for worker in self._workers):
            while self._pending:
                call = self._pending.popleft()
                if not call.ended and call.begin():
                    call.fail(error)
                    break
