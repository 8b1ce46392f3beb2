"""The Executor without containers: its workers are plain processes here, all else is real. What containers add: tests/system."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cloudpickle  # type: ignore[import-untyped]
import pytest

import pybox
from pybox import api
from pybox.executor import crew, dispatcher, staff
from pybox.result import Result, verdict
from pybox.runtime import Options
from pybox.spec import Spec

LIVING: list[LocalRunning] = []
PLANLESS = SimpleNamespace(ready=lambda spec, keep: spec)  # what pybox.runtime.Runtime is


class LocalRunning:
    """What pybox.runtime.Running is to the Executor, without a container."""

    def __init__(self, runtime: object, spec: Spec, options: Options) -> None:
        self._spec = spec
        self._process = subprocess.Popen(spec.args, stdin=options.stdin, start_new_session=True)  # type: ignore[arg-type]
        self.child = SimpleNamespace(pid=self._process.pid, pidfd=os.pidfd_open(self._process.pid))
        self.streams = SimpleNamespace(readers={}, writer=-1)
        LIVING.append(self)

    def kill(self) -> None:
        self._process.kill()

    def settle(self, timed_out: bool = False) -> Result:
        code = self._process.wait()
        os.close(self.child.pidfd)
        LIVING.remove(self)
        reason, code, ended_by = verdict(code << 8 if code >= 0 else -code, timed_out, 0)
        return Result("local", self._spec.image, self._spec.args, reason, code, ended_by)

    def abandon(self) -> None:
        self.kill()
        self.settle()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Callable[..., pybox.Executor]]:
    """``pool(max_workers, ...)`` makes an Executor of plain processes; nothing of them may be left afterwards."""
    monkeypatch.setattr(crew, "Running", LocalRunning)
    monkeypatch.setattr(api, "shared", lambda: PLANLESS)
    # by value, so that no worker imports a module of tests and all that it imports
    modules = {sys.modules[__name__], request.module}
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    fds = set(os.listdir("/proc/self/fd"))
    made: list[pybox.Executor] = []

    def make(workers: int = 1, **options: object) -> pybox.Executor:
        # without its virtualenv Python starts in half the time; it is sent this one's sys.path
        made.append(pybox.Executor("host", workers, **{"python": os.path.realpath(sys.executable), **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for executor in made:
        executor.kill_workers()
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)
    assert LIVING == [] and set(os.listdir("/proc/self/fd")) <= fds


def double(number: int) -> int:
    return 2 * number


# --- the contract of concurrent.futures --------------------------------------------------------------------------------------


def test_calls_bring_back_what_they_return(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2) as executor:
        assert isinstance(executor, cf.Executor)
        assert executor.submit(pow, 3, 4).result() == 81
        assert executor.submit(int, "ff", base=16).result() == 255
        assert executor.submit(lambda: lambda x: x + 1).result()(1) == 2
        assert list(executor.map(double, range(500))) == [2 * n for n in range(500)]
        assert list(executor.map(pow, [2, 3], [3, 2, 1])) == [8, 9]


def test_chunks_change_nothing_but_the_number_of_calls(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2) as executor:
        assert list(executor.map(pow, range(100), range(100), chunksize=7)) == [n**n for n in range(100)]
        assert list(executor.map(double, [], chunksize=7)) == []
        with pytest.raises(ValueError, match="chunksize"):
            executor.map(double, [1], chunksize=0)
        with pytest.raises(ZeroDivisionError):
            list(executor.map(lambda n: 1 // n, [1, 0, 1], chunksize=2))


def test_an_exception_comes_back_with_the_traceback_of_the_worker(pool: Callable[..., pybox.Executor]) -> None:
    def deep() -> None:
        raise KeyError("gone")

    with pool() as executor:
        error = executor.submit(deep).exception()
        assert isinstance(error, KeyError) and error.args == ("gone",)
        assert "in deep" in str(error.__cause__) and "pybox worker" not in str(error.__cause__)
        assert isinstance(executor.submit(sys.exit, 3).exception(), SystemExit)
        assert executor.submit(double, 2).result() == 4


class Awkward(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("awkward")


def test_what_can_not_be_pickled_fails_its_call_alone(pool: Callable[..., pybox.Executor]) -> None:
    def awkward() -> None:
        raise Awkward(1, 2)

    with pool() as executor:
        with pytest.raises(TypeError, match="lock"):
            executor.submit(double, threading.Lock()).result()  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="lock"):
            executor.submit(lambda: threading.Lock()).result()
        with pytest.raises(pybox.RemoteError, match=r"^Awkward: awkward$"):
            executor.submit(awkward).result()
        assert executor.submit(double, 2).result() == 4


def test_a_function_that_is_not_there_says_so_each_time(
    pool: Callable[..., pybox.Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type(sys)("only_here")
    exec("def function(): pass", module.__dict__)
    module.function.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pool() as executor:
        for _ in range(2):
            error = executor.submit(module.function).exception()
            assert isinstance(error, ModuleNotFoundError) and "register_pickle_by_value(only_here)" in error.__notes__[0]


def test_a_changed_global_is_seen_by_the_next_call(pool: Callable[..., pybox.Executor]) -> None:
    space: dict[str, object] = {"__name__": "__main__", "value": 1}
    exec("def read(): return value", space)
    with pool() as executor:
        assert executor.submit(space["read"]).result() == 1  # type: ignore[arg-type]
        space["value"] = 2
        assert executor.submit(space["read"]).result() == 2  # type: ignore[arg-type]


def test_waiting_in_all_ways(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2) as executor:
        slow, quick = executor.submit(time.sleep, 60), executor.submit(double, 1)
        done, left = cf.wait([slow, quick], return_when=cf.FIRST_COMPLETED)
        assert (done, left) == ({quick}, {slow})
        assert slow.running() and not slow.done()
        with pytest.raises(TimeoutError):
            slow.result(timeout=0.01)
        with pytest.raises(TimeoutError):
            list(executor.map(time.sleep, [60], timeout=0.01))
        many = [executor.submit(double, n) for n in range(20)]
        assert {future.result() for future in cf.as_completed(many)} == {2 * n for n in range(20)}
        called: list[object] = []
        event = threading.Event()
        many[0].add_done_callback(lambda future: (called.append(future.result()), event.set()))
        assert event.wait(10) and called == [0]
        executor.kill_workers()


def test_after_a_shutdown_nothing_is_taken_and_everything_is_done(pool: Callable[..., pybox.Executor]) -> None:
    executor = pool(2)
    futures = [executor.submit(double, n) for n in range(50)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 1)
    assert [future.result() for future in futures] == [2 * n for n in range(50)]
    executor.shutdown()


def test_shutdown_can_drop_what_has_not_begun(pool: Callable[..., pybox.Executor], tmp_path: Path) -> None:
    executor = pool()
    first = executor.submit(_until_there, str(tmp_path / "go"))
    _until_there_is(tmp_path / "go.begun")
    others = [executor.submit((tmp_path / str(n)).touch) for n in range(40)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert cf.wait(others, timeout=60).not_done == set() and all(future.cancelled() for future in others)
    (tmp_path / "go").touch()
    assert first.result() == "there"
    executor.shutdown()
    assert sorted(os.listdir(tmp_path)) == ["go", "go.begun"]


def _until_there(path: str) -> str:
    """Wait for a file; that we do is told by another one."""
    open(f"{path}.begun", "x").close()
    while not os.path.exists(path):
        time.sleep(0.001)
    return "there"


def _until_there_is(path: Path) -> None:
    while not path.exists():
        time.sleep(0.001)


def test_an_executor_that_nobody_holds_ends_when_its_work_is_done(
    pool: Callable[..., pybox.Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "Running", LocalRunning)
    executor = pybox.Executor("host", 1)
    thread = executor._dispatcher.thread
    futures = [executor.submit(double, n) for n in range(10)]
    del executor
    gc.collect()
    thread.join(60)
    assert not thread.is_alive() and [future.result() for future in futures] == [2 * n for n in range(10)]


def test_the_end_of_the_program_waits_for_what_was_submitted(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
        "import test_executor_calls as t, pybox, pathlib\n"
        "t.crew.Running, t.api.shared = t.LocalRunning, lambda: t.PLANLESS\n"
        "pool = pybox.Executor('host', 1)\n"
        f"for n in range(5): pool.submit(pathlib.Path({str(tmp_path)!r}, str(n)).touch)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert sorted(os.listdir(tmp_path)) == list("01234")


def test_a_fork_has_no_say_in_it(pool: Callable[..., pybox.Executor]) -> None:
    executor = pool()
    pid = os.fork()
    if pid == 0:
        try:
            executor.submit(double, 1)
        except RuntimeError:
            executor.shutdown()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert executor.submit(double, 1).result() == 2


# --- what the standard library's pools can't do ------------------------------------------------------------------------------


class OneAtATime:
    """The owner's copy of a worker's end, who is as slow at taking back as can be: the worker reads what follows the first message."""

    def __init__(self, theirs: socket.socket) -> None:
        self._theirs = theirs
        self._took = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._theirs, name)

    def recv(self, size: int, flags: int) -> bytes:
        if self._took:
            raise BlockingIOError
        self._took = True
        return self._theirs.recv(size, flags)


def test_a_call_whose_function_was_taken_back_with_the_one_before_is_made_all_the_same(
    pool: Callable[..., pybox.Executor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def pair(*kind: int) -> tuple[socket.socket, OneAtATime]:
        ours, theirs = socket.socketpair(*kind)
        return ours, OneAtATime(theirs)

    monkeypatch.setattr(crew, "socketpair", pair)
    os.mkfifo(tmp_path / "gate")
    with pool(1) as executor:
        held = executor.submit((tmp_path / "gate").read_text)
        teaches, relies = executor.submit(double, 1), executor.submit(double, 2)
        with (tmp_path / "gate").open("w") as gate:  # opened when the first call runs; the others are in its socket, or will be
            while len(executor._dispatcher._workers[0].calls) < 3:
                time.sleep(0.001)
            assert teaches.cancel()
            while len(executor._dispatcher._workers[0].calls) > 2:
                time.sleep(0.001)
            gate.write("open")
        assert held.result() == "open" and relies.result() == 4


def test_a_crash_fails_its_call_alone(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2) as executor:
        futures = [executor.submit(os._exit if n % 20 == 3 else double, n) for n in range(60)]
        failed = [n for n, future in enumerate(futures) if future.exception() is not None]
        assert failed == [3, 23, 43]
        error = futures[23].exception()
        assert isinstance(error, pybox.WorkerDied) and error.result.exit_code == 23 and error.reason == "exit"
        killed = executor.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).exception()
        assert isinstance(killed, pybox.WorkerDied) and killed.result.signal == 9


def test_cancel_kills_what_runs_and_nothing_else(pool: Callable[..., pybox.Executor]) -> None:
    with pool() as executor:
        running = executor.submit(time.sleep, 1000)
        waiting = [executor.submit(double, n) for n in range(8)]
        while not running.running():
            time.sleep(0.001)
        assert waiting[3].cancel() and running.cancel() and running.cancel()
        assert cf.wait([running, waiting[3]], timeout=60).not_done == set()
        assert running.cancelled() and waiting[3].cancelled()
        assert [future.result() for n, future in enumerate(waiting) if n != 3] == [0, 2, 4, 8, 10, 12, 14]
        assert not waiting[0].cancel()
        with pytest.raises(cf.CancelledError):
            running.result()


def test_time_is_for_each_call(pool: Callable[..., pybox.Executor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = [1000.0]
    monkeypatch.setattr(staff, "monotonic", lambda: now[0])
    monkeypatch.setattr(dispatcher, "monotonic", lambda: now[0])
    with pool(timeout=10) as executor:

        def at(seconds: float) -> None:
            now[0] = 1000.0 + seconds
            executor.submit(double, 1).cancel()  # wakes it, to look at its clock

        first, second, third = (executor.submit(_until_there, str(tmp_path / name)) for name in "abc")
        _until_there_is(tmp_path / "a.begun")
        at(9)
        (tmp_path / "a").touch()
        assert first.result() == "there"
        _until_there_is(tmp_path / "b.begun")
        at(18)
        assert not second.done()
        at(20)
        error = second.exception()
        assert isinstance(error, pybox.CallTimeout) and not isinstance(error, TimeoutError) and error.reason == "timeout"
        (tmp_path / "c").touch()
        assert third.result() == "there"


def test_nobody_is_idle_while_calls_wait_behind_another(pool: Callable[..., pybox.Executor], tmp_path: Path) -> None:
    with pool(2) as executor:
        list(executor.map(double, range(100)))
        slow = executor.submit(_until_there, str(tmp_path / "go"))
        assert [executor.submit(double, n).result(timeout=60) for n in range(50)] == [2 * n for n in range(50)]
        more = [executor.submit(double, n) for n in range(50)]
        assert cf.wait(more, timeout=60).not_done == set() and not slow.done()
        (tmp_path / "go").touch()


def test_calls_have_a_process_each_when_that_is_asked_for(pool: Callable[..., pybox.Executor]) -> None:
    with pool(2, isolation="call") as executor:
        assert len(set(executor.map(lambda _: os.getpid(), range(8)))) == 8


def test_what_can_not_work_is_refused_at_once(pool: Callable[..., pybox.Executor], monkeypatch: pytest.MonkeyPatch) -> None:
    for options, match in (
        ({"isolation": "thread"}, "isolation"),
        ({"results": "yaml"}, "results"),
        ({"preload": "numpy"}, "preload"),
        ({"entrypoint": "sh"}, "entrypoint"),
        ({"max_workers": 0}, "max_workers"),
    ):
        with pytest.raises(pybox.SpecError, match=match):
            pybox.Executor("host", **options)  # type: ignore[arg-type]
    with pytest.raises(pybox.WorkerFailed, match="No module named 'nosuch'"):
        pool(preload=["nosuch"])
    with pytest.raises(pybox.WorkerDied, match="before it was ready"):
        pool(python="false")
    monkeypatch.setattr(sys.implementation, "cache_tag", "cpython-399")
    with pytest.raises(pybox.WorkerFailed, match="its Python is '3") as caught:
        pool()
    assert "an image with Python 3" in str(caught.value.hint)
