"""What can end a call beside its own exception."""

from __future__ import annotations

from pybox.errors import PyboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.result import Result


class WorkerFailed(PyboxError):
    """No worker can be had: its Python, its preloads or its start refuse."""

    code = "E-WORKER"


class WorkerDied(PyboxError):
    """The worker ended during the call: a crash, ``os._exit``, a kill. ``result`` is how its container ended and what it cost."""

    code = "E-WORKER-DIED"

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result
        self.reason = result.reason


class CallTimeout(WorkerDied):
    """The call took longer than the Executor's ``timeout``. No TimeoutError: that is what ``future.result(timeout=...)`` raises."""

    code = "E-WORKER-TIMEOUT"


class OutOfMemory(WorkerDied):
    """The kernel killed the worker at its memory limit."""

    code = "E-WORKER-OOM"


class RemoteError(PyboxError):
    """An exception that came back as text only: it can't be pickled, or ``results="json"`` forbids it. ``type_name`` says of which type."""

    code = "E-WORKER-REMOTE"

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}" if message else type_name)
        self.type_name = type_name


class RemoteTraceback(Exception):
    """The traceback of an exception in a worker, as text: its ``__cause__``, so that it is printed with it."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def death(result: Result, started: bool = True) -> WorkerDied:
    """Return what to tell of a worker that has ended in a call."""
    how = {
        "exit": f"its process ended itself with exit status {result.exit_code}",
        "signal": f"signal {result.signal} ended it",
        "timeout": "the call took longer than allowed",
        "oom": "it needed more memory than allowed",
    }.get(result.reason, result.reason)
    kind = {"timeout": CallTimeout, "oom": OutOfMemory}.get(result.reason, WorkerDied)
    return kind(f"the worker {'died in the call' if started else 'ended before it was ready'}: {how}", result)
