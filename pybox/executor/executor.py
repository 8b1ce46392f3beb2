"""Executor: what the user sees."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Executor as _Executor
from itertools import chain, islice

from pybox.api import Container, options_of, spec_of
from pybox.errors import SpecError
from pybox.executor import ship, wire
from pybox.executor.calls import Call, Command
from pybox.executor.dispatcher import Dispatcher
from pybox.executor.staff import Terms
from pybox.units import parse_bytes, parse_int, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Literal, ParamSpec, TypeVar, Unpack

    from pybox.result import Result
    from pybox.supervise import Sink

    P = ParamSpec("P")
    T = TypeVar("T")


class _Each:
    """Marks a submit of map: the function is for each of a chunk."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function


class Executor(_Executor):
    """A concurrent.futures.Executor whose workers are containers.

    with pybox.Executor("python", max_workers=4, memory="256M", timeout=60) as pool:
        print(list(pool.map(simulate, range(1000), chunksize=10)))
    """

    def __init__(
        self,
        image: str,
        max_workers: int | None = None,
        *,
        timeout: float | str | None = None,
        isolation: Literal["worker", "call"] = "worker",
        preload: Sequence[str] = (),
        python: str = "",
        results: Literal["pickle", "json"] = "pickle",
        max_result: int | str = "1G",
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        **container: Unpack[Container],
    ) -> None:
        """Start the first worker, so that what can't work says so here; the others follow as calls need them.

        Args:
            image: has a python3 of this Python's minor version; ``host`` is the machine itself, with this very Python.
            max_workers: most calls at once; by default one for each CPU.
            timeout: seconds for each call; then its worker is killed and it ends with CallTimeout.
            isolation: ``"worker"``: a container serves call after call. ``"call"``: each call has a fresh one, started ahead.
            preload: modules that each worker imports before its first call.
            python: the interpreter in the image; by default python3, with ``host`` sys.executable.
            results: ``"pickle"`` brings back any object, and trusts the workers: unpickling can run code here.
                ``"json"`` brings back JSON values, exceptions as RemoteError, and runs nothing.
            max_result: bytes of a result; a worker that sends more is killed.
            stdout, stderr: as in `run`, for all workers; by default they write to the caller's.
            The others are those of `run`, for each worker.

        Raises:
            WorkerFailed: the Python in the image is of another version, or a preload fails. ProgramNotFound: there is none.
            SpecError, ImageNotFound and the others of `run`.
        """
        if "entrypoint" in container:
            raise SpecError("entrypoint", "", "an Executor's workers run Python", "python= says which")
        if isolation not in ("worker", "call"):
            raise SpecError("isolation", isolation, "must be worker or call")
        if results not in ("pickle", "json"):
            raise SpecError("results", results, "must be pickle or json")
        if isinstance(preload, str):
            raise SpecError("preload", preload, "must be a list of module names", f'["{preload}"]')
        self._max_workers = parse_int("max_workers", max_workers, 1, 10_000) or len(os.sched_getaffinity(0))
        self._image, self._container = image, container
        host = image == "host"
        words = (python or (sys.executable if host else "python3"), "-c", ship.BOOT)
        streams = {"stdout": stdout, "stderr": stderr}
        terms = Terms(
            spec=spec_of(image, words, {**container, "entrypoint": ()}),
            options=options_of(timeout=None, input=None, capture=False, name="", **streams),
            program=ship.program(results, tuple(preload), sys.path if host else None),
            max_workers=self._max_workers,
            fresh=isolation == "call",
            json=results == "json",
            max_result=parse_bytes("max_result", max_result) or 0,
            timeout=parse_seconds("timeout", timeout),
        )
        self._dispatcher = Dispatcher(terms)
        try:
            self._dispatcher.first.result()
        except BaseException:
            self.kill_workers()
            raise

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have fn(*args, **kwargs) called in a worker. Its Future ends with the result or the exception of the call, or with

        WorkerDied, CallTimeout, OutOfMemory: what became of the worker; other calls go on in another one.
        """
        what = (fn.function, args[0], {}) if isinstance(fn, _Each) else (fn, args, kwargs)
        call = Call(self._dispatcher.cancel, wire.EACH if isinstance(fn, _Each) else wire.ONE, what)
        self._dispatcher.submit("submit", call)
        return call.future  # type: ignore[return-value]

    def submit_cmd(
        self,
        args: Sequence[str],
        *,
        image: str = "",
        timeout: float | str | None = None,
        input: bytes | str | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        name: str = "",
        check: bool = False,
        **container: Unpack[Container],
    ) -> Future[Result]:
        """Have a command run in a container of its own; its Future ends with the Result.

        Args:
            image and the options of the container: by default the Executor's.
            The others are those of `run`; output is captured.
        """
        spec = spec_of(image or self._image, args, {**self._container, **container})
        options = options_of(timeout=timeout, input=input, capture=True, stdout=stdout, stderr=stderr, name=name)
        command = Command(self._dispatcher.cancel, spec, options, check)
        self._dispatcher.submit("submit", command)
        return command.future  # type: ignore[return-value]

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[object], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Return the results of fn for each of zip(*iterables), in order; ``chunksize`` of them make one call.

        The arguments are read at once, as in the standard library. Raises TimeoutError when a result is asked for more than
        ``timeout`` seconds after this call.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        rows = zip(*iterables, strict=False)
        chunks = iter(lambda: list(islice(rows, chunksize)), [])
        each: Callable[..., list[T]] = _Each(fn)  # type: ignore[assignment]
        return _flat(super().map(each, chunks, timeout=timeout))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end the workers when all is done. ``cancel_futures``: what has not begun ends as cancelled."""
        if self._dispatcher.close(*(["drop"] if cancel_futures else []), "close") and wait:
            self._dispatcher.thread.join()

    def kill_workers(self) -> None:
        """Kill all that runs, now; every call that has not ended ends as cancelled. Returns when nothing is left."""
        if self._dispatcher.close("kill"):
            self._dispatcher.thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        """Wait for all calls; an exception that is no Exception (KeyboardInterrupt, SystemExit) kills them."""
        if kind is not None and not issubclass(kind, Exception):
            self.kill_workers()
        else:
            self.shutdown()
        return False

    def __del__(self) -> None:
        if hasattr(self, "_dispatcher"):
            self.shutdown(wait=False)


def _flat(lists: Iterator[list[T]]) -> Iterator[T]:
    for found in lists:
        yield from chain(found)
