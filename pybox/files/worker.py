"""The worker: a forked process that does the container's side of a copy, in the container's user namespace if it has one.

What lies between the two sides is a tar in a pipe. So a file inside is always read and written with the ids and the rights of
the container's root, one outside with those of the caller, and neither side ever opens what belongs to the other. The worker
stays in the host's mount namespace: it runs this code and no other, whatever lies in the container (CVE-2019-14271).
"""

from __future__ import annotations

import os

from pybox import fastjson, native
from pybox.errors import PyboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from pybox.image.stream import Source

_NOTES = 20  # that are shown; all of them must fit into a pipe
_STEP = 1 << 20  # bytes: the largest pipe that anybody may have, and of one splice


class Notes:
    """What was left out and why: said at the end, not a failure."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def add(self, line: str) -> None:
        """Note something."""
        self.count += 1
        if len(self.lines) < _NOTES:
            self.lines.append(line)

    def all(self) -> list[str]:
        """Return the lines, and how many more there were."""
        more = self.count - len(self.lines)
        return [*self.lines, f"and {more} more"] if more else self.lines


class Worker:
    """``with Worker(userns, job, sends=True) as fd``: ``job(fd)`` runs in the worker and writes what is read here, or vice versa.

    Its failure is raised at the end of the block, before one of the block's own, which is then only its echo: unless it is the
    block that feeds the worker. ``userns`` is the user namespace it enters, -1 for none.
    """

    def __init__(self, userns: int, job: Callable[[int, Notes], None], *, sends: bool, notes: Notes) -> None:
        self._userns, self._job, self._sends, self._notes = userns, job, sends, notes

    def __enter__(self) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        from fcntl import F_SETPIPE_SZ, fcntl

        try:
            fcntl(writer, F_SETPIPE_SZ, _STEP)
        except OSError:  # the user's share of pipe memory is used up
            pass
        said, words = os.pipe2(os.O_CLOEXEC)
        self._fd, theirs = (reader, writer) if self._sends else (writer, reader)
        self._said = said
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._fd)
            os.close(said)
            self._work(theirs, words)
        os.close(theirs)
        os.close(words)
        return self._fd

    def _work(self, fd: int, words: int) -> None:
        status = 1
        try:
            answer: dict[str, fastjson.Json] = {}
            notes = Notes()
            try:
                self._become_root()
                self._job(fd, notes)
            except PyboxError as error:
                answer = {"error": error.message, "hint": error.hint}
            except BrokenPipeError:  # the caller has had enough, and knows why
                pass
            except (OSError, EOFError) as error:
                answer = {"error": f"in the container: {getattr(error, 'strerror', None) or error}"}
            answer["notes"] = tuple(notes.all())
            os.write(words, fastjson.dumps(answer).encode())
            status = 0
        except KeyboardInterrupt:
            pass
        finally:
            os._exit(status)

    def _become_root(self) -> None:
        os.umask(0)
        if self._userns < 0:
            return
        native.enter_user_namespace(self._userns)
        try:
            os.setgroups([])
        except PermissionError:  # a namespace of one id: there is none to be had (user_namespaces(7))
            pass
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            os.close(self._fd)
            if error is not None and not isinstance(error, (PyboxError, OSError, EOFError)):
                os.kill(self._pid, 9)
            with open(self._said, "rb") as file:
                text = file.read().decode("utf-8", "surrogateescape")
        finally:
            status = os.waitpid(self._pid, 0)[1]
        answer = fastjson.loads(text) if text else None
        if isinstance(answer, dict):
            notes = answer.get("notes")
            for line in notes if isinstance(notes, list) else ():
                self._notes.add(str(line))
            if "error" in answer and (self._sends or error is None or isinstance(error, BrokenPipeError)):
                raise PyboxError(str(answer["error"]), str(answer["hint"]) if answer.get("hint") else None) from None
        if status and (error is None or isinstance(error, (PyboxError, EOFError))):
            raise PyboxError("the process that did the work in the container was killed") from None
        if isinstance(error, BrokenPipeError) and not self._sends:
            raise PyboxError("the work in the container has stopped") from None


class Reader:
    """An fd as a source that is read forward."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        return os.read(self._fd, size)


def write(fd: int, chunks: Iterable[bytes]) -> None:
    """Write all of it. Raises OSError."""
    for chunk in chunks:
        data = memoryview(chunk)
        while data:
            data = data[os.write(fd, data) :]


def pour(source: int, target: int) -> None:
    """Move what comes out of a pipe into any fd, in the kernel where it can. Raises OSError."""
    try:
        while os.splice(source, target, _STEP):
            pass
    except OSError as error:
        if error.errno != 22:  # EINVAL: the target is opened for appending, or takes no splice
            raise
        while data := os.read(source, _STEP):
            write(target, (data,))


def chunks_of(source: Source) -> Iterable[bytes]:
    """Yield what a source has."""
    while data := source.read(1 << 18):
        yield data
