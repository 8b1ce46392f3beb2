"""The one thread of an Executor: it launches workers, gives them calls, hears of results and of ends.

It launches too, for a container dies with the thread that has launched it. It does not know the Executor: who lets go of one
without shutting it down ends its thread, when the work is done.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from select import EPOLLOUT
from time import monotonic
from weakref import WeakSet

from pybox import api
from pybox.executor import calls, ship, wire
from pybox.executor.calls import Call, Command, Task
from pybox.executor.commands import Commands
from pybox.executor.crew import Worker
from pybox.executor.errors import WorkerDied, WorkerFailed, death
from pybox.failures import ProgramNotFound
from pybox.record import Record
from pybox.runtime import Options
from pybox.spec import Spec

AHEAD = 16  # calls that a worker has been given, at most: it need not wait for us to hear of the last result
_GRACE = 5.0  # seconds that a worker has to end by itself


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


class Dispatcher(Commands):
    """See above."""

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
        self.thread = threading.Thread(target=self._run, name="pybox-executor", daemon=True)
        _LIVING.add(self)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._hire()
            while self._turn():
                pass
        except BaseException as error:  # whatever it is: nobody may wait for ever
            self._give_up(error)
            raise
        finally:
            self._end()

    def _over(self) -> bool:
        if not self._closing or self._pending or self._commands or self._inbox or self._running:
            return False
        if any(worker.calls for worker in self._workers):
            return False
        for worker in self._workers:
            self._retire(worker)
        return not self._workers

    def _turn(self) -> bool:
        """Do what there is to do, and sleep until there is more; False when there will be none."""
        while self._inbox:
            self._do(*self._inbox.popleft())
        self._give_out()
        if not self._pending:
            self._even_out()
        hired = self._staff()
        if self._over():
            return False
        self._sleep(0 if hired else self._time_left())
        self._look_at_the_clock()
        return True

    def _do(self, what: str, task: Task | None) -> None:
        if isinstance(task, Call) and what == "submit":
            self._pending.append(task)
        elif isinstance(task, Command) and what == "submit":
            self._commands.append(task)
        elif task is not None:
            self._cancel(task)
        else:
            self._closing = True
            if what == "drop":
                self._drop()
            elif what == "kill":
                self._hurry = True
                self._drop()
                self._kill_commands()
                for worker in self._workers:
                    for call in worker.calls:
                        call.future.cancel()
                    worker.leaving = True
                    worker.kill()

    def _drop(self) -> None:
        """End what has not begun, or (in a hurry) what does not run in this moment."""
        for worker in self._workers:
            self._put_back(worker)
        for task in (*self._pending, *self._commands):
            if self._hurry or not task.begun:
                task.dropped()

    # --- who does what ------------------------------------------------------------------------------------------------------

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
        self._add(worker.running.child.pidfd, lambda _: self._worker_ended(worker))
        self._add(worker.ours.fileno(), lambda event: self._channel(worker, event))
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

    # --- what happens -------------------------------------------------------------------------------------------------------

    def _channel(self, worker: Worker, event: int) -> None:
        try:
            if event & EPOLLOUT:
                worker.send_on()
                self._poll.modify(worker.ours.fileno(), worker.events)
            self._hear(worker)
        except wire.Broken as error:
            self._broken(worker, error)

    def _hear(self, worker: Worker) -> None:
        """Take all that a worker has said. Raises wire.Broken."""
        while (message := worker.receive()) is not None:
            if not worker.hello:
                self._greet(worker, message)
            elif (reply := worker.reply(message)) is not None:
                if worker.ready:
                    self._answer(worker, *reply)
                else:
                    self._prepared(worker, reply[0], reply[2])

    def _greet(self, worker: Worker, message: bytes) -> None:
        worker.hello = True
        try:
            ship.check_hello(self._terms.spec.image, message)
        except WorkerFailed as error:
            worker.error = error
            worker.kill()
            return
        size = str(len(self._terms.program)).encode()
        self._send(worker, [size, *wire.messages(b"", self._terms.program)])

    def _prepared(self, worker: Worker, kind: int, body: bytes | bytearray) -> None:
        if kind == wire.READY:
            worker.ready = True
            self._sick = False
            if not self.first.done():
                self.first.set_result(None)
            return
        name, message = wire.parse_error(body)[1:3]
        worker.error = WorkerFailed(f"{self._terms.spec.image}: a worker can't be prepared: {name}: {message}")
        worker.error.__cause__ = calls.error_of(body, json=True).__cause__
        worker.kill()

    def _answer(self, worker: Worker, kind: int, number: int, body: bytes | bytearray) -> None:
        if not worker.calls or worker.calls[0].number != number or kind not in (wire.VALUE, wire.RAISED):
            raise wire.Broken("it has answered what it was not asked")
        call, json = worker.calls[0], self._terms.json
        try:
            outcome = calls.error_of(body, json) if kind == wire.RAISED else calls.value_of(body, json)
        except wire.Broken:
            raise
        except Exception as error:  # it can't be read: of a class that is not here, or not JSON
            kind, outcome = wire.RAISED, error
        worker.calls.popleft()
        worker.deadline = None
        if self._terms.fresh:
            worker.leaving = True
            worker.kill()
        elif worker.calls and not self._begin(worker, worker.calls[0]):
            self._put_back(worker)
            worker.kill()  # cancelled, but it has begun in this moment
        if kind == wire.RAISED:
            assert isinstance(outcome, BaseException)
            call.fail(outcome)
        else:
            call.succeed(outcome)

    def _broken(self, worker: Worker, error: wire.Broken) -> None:
        self._remove(worker.ours.fileno())
        if not worker.killed and not worker.leaving:
            worker.why = str(error)
        worker.kill()

    def _worker_ended(self, worker: Worker) -> None:
        if not worker.why:
            try:
                self._hear(worker)
            except wire.Broken as broken:
                self._broken(worker, broken)
        self._remove(worker.ours.fileno())
        self._remove(worker.running.child.pidfd)
        self._remove_readers(worker)
        self._workers.remove(worker)
        worker.kill()
        self._put_back(worker)
        try:
            result = worker.settle()
        finally:
            worker.close()
        error = worker.error or (
            WorkerDied(f"the worker was killed: {worker.why}", result) if worker.why else death(result, worker.ready)
        )
        for call in worker.calls:
            if call.future.cancelled():
                call.dropped()
            elif call.begin():
                call.fail(error)
        if not worker.ready and not worker.leaving:
            self._refused(error)

    def _cancel(self, task: Task) -> None:
        where = task.where
        if task.ended:
            return
        if isinstance(where, Worker):
            self._put_back(where, but=task)
            try:
                self._hear(where)
            except wire.Broken as error:
                self._broken(where, error)
            if not task.ended and task in where.calls:  # it runs, and has ended when its worker has
                where.kill()
                return
        elif where is not None:
            where.kill()
            return
        task.dropped()

    def _retire(self, worker: Worker) -> None:
        if worker.leaving or worker.killed:
            return
        worker.leaving = True
        if self._terms.fresh or not worker.ready:
            worker.kill()
        else:
            worker.dismiss()
            worker.deadline = monotonic() + _GRACE

    # --- the clock ----------------------------------------------------------------------------------------------------------

    def _time_left(self) -> float | None:
        found = [box.deadline for box in (*self._workers, *self._running) if box.deadline is not None]
        return max(0.0, min(found) - monotonic()) if found else None

    def _look_at_the_clock(self) -> None:
        late = [box for box in (*self._workers, *self._running) if box.deadline is not None and box.deadline <= monotonic()]
        for box in late:
            if isinstance(box, Worker) and not box.leaving:
                call = box.calls[0]
                self._put_back(box)
                try:
                    self._hear(box)
                except wire.Broken as error:
                    self._broken(box, error)
                if box.killed or not box.calls or box.calls[0] is not call:
                    continue
                box.timed_out = True
            elif not isinstance(box, Worker):
                box.timed_out = True
            box.kill()

    # --- the end ------------------------------------------------------------------------------------------------------------

    def _give_up(self, error: BaseException) -> None:
        self.close()
        if not self.first.done():
            self.first.set_exception(error)
        waiting = [task for what, task in self._inbox if task is not None and what == "submit"]
        begun = [call for worker in self._workers for call in worker.calls]
        for task in (*waiting, *begun, *self._pending, *self._commands, *self._running.values()):
            task.fail(error)

    def _end(self) -> None:
        for box in (*self._workers, *self._running):
            box.running.abandon()
            if isinstance(box, Worker):
                box.close()
        self._close_loop()


_LIVING: WeakSet[Dispatcher] = WeakSet()


def _at_exit() -> None:
    """Wait for what was submitted, as the pools of the standard library do at the end of the program."""
    for dispatcher in list(_LIVING):
        if dispatcher.close("close"):
            dispatcher.thread.join()


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # as concurrent.futures.process: before threads are joined
