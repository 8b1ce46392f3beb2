"""A call, a command, and the futures they end in."""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED

from pybox.executor import ship, wire
from pybox.executor.errors import RemoteError, RemoteTraceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pybox.executor.crew import Box
    from pybox.runtime import Options
    from pybox.spec import Spec

_KEPT = 1 << 14  # bytes of a function that a worker keeps by number
_MOST_KEPT = 256


class CallFuture(Future["object"]):
    """A Future whose ``cancel`` also ends what runs: then the worker is killed and another takes its place."""

    def __init__(self, tell: Callable[[Task], None], task: Task) -> None:
        super().__init__()
        self._tell = tell
        self._task: Task | None = task

    def cancel(self) -> bool:
        """Cancel it, running or not; False when it has ended already. `wait` and `as_completed` hear of it when nothing runs any more."""
        with self._condition:
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                return True
            if self._state == FINISHED:
                return False
            self._state = CANCELLED
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]  # typeshed does not show it
        task = self._task
        if task is not None:
            self._tell(task)
        return True

    def forget(self) -> None:
        """Let go of what it was made for."""
        self._task = None


class Task:
    """What a future waits for. Belongs to the dispatcher's thread, but for its birth."""

    __slots__ = ("begun", "ended", "future", "where")

    def __init__(self, tell: Callable[[Task], None]) -> None:
        self.future: CallFuture = CallFuture(tell, self)
        self.where: Box | None = None  # who has it
        self.begun = False
        self.ended = False

    def begin(self) -> bool:
        """Say that it runs. False: it has been cancelled meanwhile."""
        if not self.begun:
            self.begun = True
            if not self.future.set_running_or_notify_cancel():
                self.ended = True
                self.future.forget()
                self.release()
        return not self.ended

    def succeed(self, value: object) -> None:
        """End with a result."""
        self._end(lambda: self.future.set_result(value))

    def fail(self, error: BaseException) -> None:
        """End with an exception."""
        self._end(lambda: self.future.set_exception(error))

    def dropped(self) -> None:
        """End as cancelled: nothing of it runs."""

        def tell() -> None:
            self.future.set_running_or_notify_cancel()

        if not self.ended and not self.future.cancelled():
            self.future.cancel()
        self._end(tell)

    def _end(self, how: Callable[[], None]) -> None:
        if self.ended:
            return
        self.ended = True
        try:
            how()
        except InvalidStateError:  # cancelled in this very moment
            self.future.set_running_or_notify_cancel()
        self.future.forget()
        self.release()

    def release(self) -> None:
        """Let go of what only running it needs."""


class Call(Task):
    """A function and its arguments, until they are written down; then the message."""

    __slots__ = ("_body", "_function", "_what", "kind", "number", "small", "taught")

    def __init__(
        self,
        tell: Callable[[Task], None],
        kind: int,
        what: tuple[Callable[..., object], Sequence[object], Mapping[str, object]],
    ) -> None:
        super().__init__(tell)
        self.kind = kind
        self.number = 0  # of the call; given when it is written down
        self.taught = 0  # the number of the function that goes with it
        self.small = False
        self._what: tuple[Callable[..., object], Sequence[object], Mapping[str, object]] | None = what
        self._function = b""
        self._body = b""

    def write_down(self, number: int) -> None:
        """Make bytes of it, once; what pickling raises passes through."""
        if self._what is None:
            return
        dumps = ship.cloudpickle().dumps
        function, args, kwargs = self._what
        self._function = dumps(function, 5)
        self._body = dumps((args, kwargs), 5)
        self._what = None
        self.number = number
        self.small = wire.CALL.size + len(self._function) + len(self._body) <= wire.CHUNK

    def messages(self, functions: dict[bytes, int], known: set[int]) -> list[bytes | memoryview]:
        """Return what is to be sent to a worker which has the functions of the numbers ``known``; they become more."""
        function = self._function
        number = functions.get(function, 0)
        if not number and len(function) <= _KEPT and len(functions) < _MOST_KEPT:
            number = functions[function] = len(functions) + 1
        self.taught = 0
        if number in known:
            function = b""
        elif number:
            known.add(number)
            self.taught = number
        head = wire.CALL.pack(self.kind, self.number, number, len(function), len(self._body))
        parts = list(wire.messages(head, function, self._body))
        if not self.small:  # it can't be taken back, and so is not sent again
            self._body = b""
        return parts

    def unlearn(self, functions: dict[bytes, int], known: set[int]) -> None:
        """Note that a worker has not got its function."""
        known.discard(functions.get(self._function, 0))

    def release(self) -> None:
        """Let go of the bytes: it will not be sent again."""
        self._function = self._body = b""
        self._what = None


class Command(Task):
    """A command in a container of its own."""

    __slots__ = ("check", "options", "spec")

    def __init__(self, tell: Callable[[Task], None], spec: Spec, options: Options, check: bool) -> None:
        super().__init__(tell)
        self.spec, self.options, self.check = spec, options, check


def value_of(body: bytes | bytearray, json: bool) -> object:
    """Return the result that a worker sent. Raises whatever unpickling raises; of JSON only ValueError."""
    if json:
        from pybox.fastjson import loads

        return loads(body.decode())
    import pickle

    return pickle.loads(body)


def error_of(body: bytes | bytearray, json: bool) -> BaseException:
    """Return the exception that a worker sent, the remote traceback as its cause. Raises wire.Broken."""
    trace, name, message, pickled = wire.parse_error(body)
    error: BaseException = RemoteError(name, message)
    if pickled and not json:
        import pickle

        try:
            found = pickle.loads(pickled)
            if isinstance(found, BaseException):
                error = found
        except Exception:  # many an exception can be pickled, but not unpickled
            pass
    error.__cause__ = RemoteTraceback(trace)
    if isinstance(error, ModuleNotFoundError) and not error.name:
        return error
    if isinstance(error, ModuleNotFoundError):
        error.add_note(f"in the container; cloudpickle.register_pickle_by_value({error.name}) sends its functions along,")
        error.add_note('or show it to the container: mounts=..., env={"PYTHONPATH": ...}')
    return error
