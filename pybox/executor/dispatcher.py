"""The one thread of an Executor: it launches workers, gives them calls, hears of results and of ends.

It launches too, for a container dies with the thread that has launched it. It does not know the Executor: who lets go of one
without shutting it down ends its thread, when the work is done.
"""

from __future__ import annotations

import threading
from select import EPOLLOUT
from time import monotonic
from weakref import WeakSet

from pybox.executor import calls, ship, wire
from pybox.executor.calls import Call, Command, Task
from pybox.executor.crew import Worker
from pybox.executor.errors import WorkerDied, WorkerFailed, death
from pybox.executor.staff import Staff, Terms

_AT_ONCE = 64  # messages of one worker, before it is the turn of the others
_GRACE = 5.0  # seconds that a worker has to end by itself


class Dispatcher(Staff):
    """See above."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
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

    # --- what happens -------------------------------------------------------------------------------------------------------

    def _heard(self, worker: Worker, event: int) -> None:
        try:
            if event & EPOLLOUT:
                worker.send_on()
                self._poll.modify(worker.ours.fileno(), worker.events)
            self._hear(worker, _AT_ONCE)
        except wire.Broken as error:
            self._broken(worker, error)

    def _hear(self, worker: Worker, most: int = -1) -> None:
        """Take what a worker has said: ``most`` messages, or all. Raises wire.Broken."""
        while most != 0 and (message := worker.receive()) is not None:
            most -= 1
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
        if not worker.calls or worker.calls[0].number != number or kind not in (wire.VALUE, wire.RAISED, wire.AGAIN):
            raise wire.Broken("it has answered what it was not asked")
        call, json = worker.calls[0], self._terms.json
        if kind == wire.AGAIN:
            self._teach(worker, call)
            return
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

    def _teach(self, worker: Worker, call: Call) -> None:
        """Have a call made by whoever comes first, with its function this time."""
        if call.taught or not call.small:
            raise wire.Broken("it says that it has not got what it was sent")
        worker.calls.popleft()
        call.unlearn(self._functions, worker.known)
        call.where = None
        self._put_back(worker)
        self._pending.appendleft(call)
        if worker.calls and not self._begin(worker, worker.calls[0]):
            worker.kill()

    def _broken(self, worker: Worker, error: wire.Broken) -> None:
        self._remove(worker.ours.fileno())
        if not worker.killed and not worker.leaving:
            worker.why = str(error)
        worker.kill()

    def _ended(self, worker: Worker) -> None:
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
        error = self._autopsy(worker)
        for call in worker.calls:
            if call.future.cancelled():
                call.dropped()
            elif call.begin():
                call.fail(error)
        if not worker.ready and not worker.leaving:
            self._refused(error)

    def _autopsy(self, worker: Worker) -> BaseException:
        """Reap a worker; returns what a call ends with that it was in."""
        try:
            result = worker.settle()
        except Exception as error:  # of clearing up; the next pybox will
            return error
        finally:
            worker.close()
        if worker.error is not None:
            return worker.error
        return WorkerDied(f"the worker was killed: {worker.why}", result) if worker.why else death(result, worker.ready)

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
